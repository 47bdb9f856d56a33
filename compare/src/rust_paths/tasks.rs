//! Tasks as an asynchronous server has them: boxed futures that are spawned by one thread, polled by two others, wait
//! once and may go on elsewhere, and answer with a message that the first thread drops.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Condvar, Mutex};
use std::task::{Context, Poll, Waker};

use super::Bench;
use crate::harness::Random;

pub(super) const BENCHES: &[Bench] =
    &[Bench { name: "async-tasks-2-workers", ops: TASKS as u64, run: serve }];

const TASKS: usize = 5_000;
const WORKERS: usize = 2;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tasks ready to be polled, and whether more may come from outside.
struct Ready {
    queue: Mutex<(VecDeque<Task>, bool)>,
    arrived: Condvar,
}

/// Is pending once, and ready when it is polled again.
struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

async fn handle(request: Vec<u8>, answer: Sender<String>) {
    let copy: Vec<u8> = request.iter().rev().copied().collect();
    Yield(false).await;
    let text = format!("{} bytes, {} and {}", request.len(), copy[0], copy[copy.len() - 1]);
    // The receiver waits for every answer.
    answer.send(text).expect("the receiver lives");
}

fn work(ready: &Ready) {
    let mut context = Context::from_waker(Waker::noop());
    let mut queue = ready.queue.lock().expect("no holder panics");
    loop {
        let Some(mut task) = queue.0.pop_front() else {
            if !queue.1 {
                return;
            }
            queue = ready.arrived.wait(queue).expect("no holder panics");
            continue;
        };
        drop(queue);
        let waits = task.as_mut().poll(&mut context).is_pending();
        queue = ready.queue.lock().expect("no holder panics");
        if waits {
            queue.0.push_back(task);
        }
    }
}

fn serve() {
    let ready = Ready { queue: Mutex::new((VecDeque::new(), true)), arrived: Condvar::new() };
    let (answer, answers) = channel();
    let mut random = Random::new(31);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| work(&ready));
        }
        for _ in 0..TASKS {
            let task: Task = Box::pin(handle(vec![7; random.uniform(16, 512)], answer.clone()));
            ready.queue.lock().expect("no holder panics").0.push_back(task);
            ready.arrived.notify_one();
        }
        let text: usize = answers.iter().take(TASKS).map(|answer| answer.len()).sum();
        assert!(text > 10 * TASKS);
        ready.queue.lock().expect("no holder panics").1 = false;
        ready.arrived.notify_all();
    });
}
