//! Debug information that was cut off a file of code: where it lies then, by the file's build id or by the name in its
//! section `.gnu_debuglink`, as debuggers look for it; and what it shares with others' in a file that `dwz` made.

use super::collect::below;
use super::objects::{Object, digits};
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

/// The file with what `file` has in common with others, that `dwz` took out of them: the one that is named in the
/// section `.gnu_debugaltlink`, by its build id.
pub(super) fn supplementary(root: &Path, file: &Path) -> Option<PathBuf> {
    let cache = ReadCache::new(File::open(file).ok()?);
    let parsed = object::File::parse(&cache).ok()?;
    let (name, build_id) = parsed.gnu_debugaltlink().ok()??;
    let (name, build_id) = (std::str::from_utf8(name).ok()?, digits(build_id));
    let belongs = |file: &PathBuf| {
        Object::read(file).is_some_and(|found| found.build_id == build_id && !build_id.is_empty())
    };
    let places = if name.starts_with('/') {
        vec![below(root, name), name.into()]
    } else {
        // Of a link the file that it leads to counts.
        let own = [file.to_owned(), file.canonicalize().ok()?];
        own.iter().filter_map(|own| Some(own.parent()?.join(name))).collect()
    };
    places.into_iter().find(belongs).or_else(|| by_build_id(root, &build_id).filter(belongs))
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

    #[test]
    fn what_is_shared_with_others_is_found_by_name_and_by_build_id_and_only_if_it_belongs() {
        let root = std::env::temp_dir().join(format!("specmalloc-shared-{}", std::process::id()));
        let (bin, shared) = (root.join("bin"), root.join("usr/lib/debug/.dwz"));
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(&shared).unwrap();
        fs::write(bin.join("a.c"), "int main(void) { return 0; }").unwrap();
        run(&bin, "cc -g -Wl,--build-id=0x0123456789 -o ../usr/lib/debug/.dwz/common a.c");
        let id = b"\x01\x23\x45\x67\x89";
        let found = |name: &str, id: &[u8]| {
            fs::write(bin.join("link"), [name.as_bytes(), b"\0", id].concat()).unwrap();
            run(&bin, "cc -g -o a a.c");
            run(&bin, "objcopy --add-section .gnu_debugaltlink=link a");
            supplementary(&root, &bin.join("a"))
        };
        let common = shared.join("common");
        assert_eq!(found("/usr/lib/debug/.dwz/common", id), Some(common.clone()));
        assert_eq!(found("../usr/lib/debug/.dwz/common", id), Some(bin.join("../usr/lib/debug/.dwz/common")));
        assert_eq!(found("/usr/lib/debug/.dwz/common", b"\x01\x23"), None);
        assert_eq!(found("/usr/lib/debug/.dwz/common", b""), None);
        let by_id = root.join("usr/lib/debug/.build-id/01");
        fs::create_dir_all(&by_id).unwrap();
        fs::rename(&common, by_id.join("23456789.debug")).unwrap();
        assert_eq!(found("gone", id), Some(by_id.join("23456789.debug")));
        run(&bin, "cc -g -o a a.c");
        assert_eq!(supplementary(&root, &bin.join("a")), None);
        fs::remove_dir_all(root).unwrap();
    }
}
