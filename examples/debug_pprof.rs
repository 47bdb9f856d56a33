//! A server that shows where it allocates: `/debug/pprof/heap`, as Go programs have it.
//!
//! ```console
//! $ cargo run --release --features profile --example debug_pprof &
//! $ go tool pprof -http=: http://localhost:6060/debug/pprof/heap
//! $ curl -s 'http://localhost:6060/debug/pprof/heap?debug=1'
//! ```
//!
//! pprof looks for the names of functions in the program's file; with `?names=1` the server finds them itself, for those
//! who do not have it at hand, and with `?debug=1` it answers with text.

use specmalloc::{SpecMalloc, profile};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

#[global_allocator]
static ALLOC: SpecMalloc = SpecMalloc::new();

/// A request's first line and headers at most.
const MOST_BYTES: u64 = 8 << 10;

struct Answer {
    status: &'static str,
    kind: &'static str,
    body: Vec<u8>,
}

impl Answer {
    fn text(status: &'static str, text: String) -> Answer {
        Answer { status, kind: "text/plain; charset=utf-8", body: text.into_bytes() }
    }
}

/// What is under a path: the profile, shown first by `kind`.
fn profile(kind: &str, query: &str) -> Answer {
    let asks = |what: &str| query.split('&').any(|part| part.strip_prefix(what) == Some("=1"));
    let Some(mut profile) = profile::take() else {
        return Answer::text("503 Service Unavailable", "nothing was sampled yet\n".to_owned());
    };
    if asks("names") || asks("debug") {
        profile::resolve(&mut profile);
    }
    if asks("debug") {
        let leaks: Vec<String> = profile.leaks().iter().map(ToString::to_string).collect();
        return Answer::text("200 OK", leaks.join("\n"));
    }
    kind.clone_into(&mut profile.first_kind);
    Answer { status: "200 OK", kind: "application/octet-stream", body: profile.bytes() }
}

fn answer(target: &str) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match path {
        "/debug/pprof/heap" => profile("inuse_space", query),
        "/debug/pprof/allocs" => profile("alloc_space", query),
        _ => Answer::text("404 Not Found", "/debug/pprof/heap\n/debug/pprof/allocs\n".to_owned()),
    }
}

fn converse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut first = String::new();
    let mut request = BufReader::new((&stream).take(MOST_BYTES));
    request.read_line(&mut first)?;
    // The headers say nothing that matters here.
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let answer = match first.split(' ').collect::<Vec<_>>()[..] {
        ["GET", target, _] => answer(target),
        _ => Answer::text("405 Method Not Allowed", String::new()),
    };
    let Answer { status, kind, body } = answer;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)
}

/// Answers one request after the other.
pub fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        // One that goes away, or says nothing, is not ours to mind.
        let _gone = converse(stream);
    }
}

#[cfg_attr(test, expect(dead_code, reason = "a test has it serve"))]
fn main() -> io::Result<()> {
    profile::start(512 << 10);
    // What a program is there for: here, words that come and go.
    std::thread::spawn(|| {
        let mut words: Vec<String> = Vec::new();
        for number in 0_u64.. {
            words.push(format!("{number}").repeat(number as usize % 1000));
            if words.len() > 20_000 {
                words.swap_remove(number.wrapping_mul(0x9e37_79b9) as usize % 20_000);
            }
            if number.is_multiple_of(1000) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let listener = TcpListener::bind("127.0.0.1:6060")?;
    println!("http://{}/debug/pprof/heap", listener.local_addr()?);
    serve(&listener);
    Ok(())
}
