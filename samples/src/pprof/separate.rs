//! Debug information that was cut off a file of code: where it lies then, by the file's build id or by the name in its
//! section `.gnu_debuglink`, as debuggers look for it.

use super::collect::below;
use super::objects::Object;
use flate2::Crc;
use object::{Object as _, ReadCache};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Where distributions put it.
const DEBUG: &str = "/usr/lib/debug";

/// The file of debug information that belongs to the file at `path` below `root`, which is `object`.
pub(super) fn debug_file(root: &Path, path: &str, object: &Object) -> Option<PathBuf> {
    by_build_id(root, &object.build_id).or_else(|| by_link(root, path, object))
}

fn by_build_id(root: &Path, build_id: &str) -> Option<PathBuf> {
    let (folder, name) = build_id.split_at_checked(2)?;
    let path = format!("{DEBUG}/.build-id/{folder}/{name}.debug");
    [below(root, &path), path.into()].into_iter().find(|path| path.is_file())
}

fn by_link(root: &Path, path: &str, object: &Object) -> Option<PathBuf> {
    let own = below(root, path);
    let (name, sum) = link(&own)?;
    let (folder, _) = path.rsplit_once('/')?;
    let places = [format!("{folder}/"), format!("{folder}/.debug/"), format!("{DEBUG}{folder}/")];
    places.into_iter().map(|place| below(root, &(place + &name))).find(|file| {
        // It is told by its sum, which has to be read for; a build id, where there is one, tells as much.
        *file != own
            && Object::read(file).is_some_and(|found| match object.build_id.as_str() {
                "" => sum_of(file) == Some(sum),
                build_id => found.build_id == build_id,
            })
    })
}

/// The name of the file, and its sum.
fn link(path: &Path) -> Option<(String, u32)> {
    let cache = ReadCache::new(File::open(path).ok()?);
    let file = object::File::parse(&cache).ok()?;
    let (name, sum) = file.gnu_debuglink().ok()??;
    // In a folder that is looked into, and nowhere else.
    let name = std::str::from_utf8(name).ok().filter(|name| !name.contains('/'))?;
    Some((name.to_owned(), sum))
}

fn sum_of(path: &Path) -> Option<u32> {
    let (mut reader, mut sum) = (BufReader::with_capacity(1 << 16, File::open(path).ok()?), Crc::new());
    loop {
        let bytes = reader.fill_buf().ok()?;
        if bytes.is_empty() {
            return Some(sum.sum());
        }
        sum.update(bytes);
        let count = bytes.len();
        reader.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    fn run(folder: &Path, words: &str) {
        let mut words = words.split(' ');
        let mut command = Command::new(words.next().unwrap());
        assert!(command.args(words).current_dir(folder).status().unwrap().success());
    }

    #[test]
    fn what_was_cut_off_is_found_where_debuggers_look_and_only_if_it_belongs() {
        let root = std::env::temp_dir().join(format!("specmalloc-separate-{}", std::process::id()));
        fs::create_dir_all(root.join("bin")).unwrap();
        let bin = root.join("bin");
        fs::write(bin.join("a.c"), "int main(void) { return 0; }").unwrap();
        for id in ["none", "sha1"] {
            run(&bin, &format!("cc -g -Wl,--build-id={id} -o a a.c"));
            run(&bin, "objcopy --only-keep-debug a a.debug");
            run(&bin, "objcopy --strip-debug --add-gnu-debuglink=a.debug a");
            let object = Object::read(&bin.join("a")).unwrap();
            let found = || debug_file(&root, "/bin/a", &object);
            assert_eq!(found(), Some(bin.join("a.debug")), "{id}");
            for place in ["bin/.debug", "usr/lib/debug/bin"] {
                let place = root.join(place);
                fs::create_dir_all(&place).unwrap();
                fs::rename(bin.join("a.debug"), place.join("a.debug")).unwrap();
                assert_eq!(found(), Some(place.join("a.debug")), "{id}");
                fs::rename(place.join("a.debug"), bin.join("a.debug")).unwrap();
            }
            // Another one.
            fs::write(bin.join("b.c"), "int main(void) { return 1; }").unwrap();
            run(&bin, &format!("cc -g -Wl,--build-id={id} -o a.debug b.c"));
            assert_eq!(found(), None, "{id}");
            fs::write(bin.join("a.debug"), "nothing").unwrap();
            assert_eq!(found(), None, "{id}");
        }
        fs::remove_dir_all(root).unwrap();
    }
}
