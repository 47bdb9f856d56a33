#!/usr/bin/env python3
"""Step mutants: changes that a careless edit would make to the order of a protocol.

    ci/steps.py list FILE ...       the mutants, one a line: a name without line numbers
    ci/steps.py make OUT FILE ...   writes OUT/tree, a copy of the sources in which all mutants of the files are, each to be chosen
                                    when a test starts, and builds its tests: plain, for loom, for shuttle, and those of real
                                    programs, which have the mutant, too; or those builds that STEP_BUILDS names. With STEP_ONLY=NAMES,
                                    a file, of the mutants those with the names in it
    ci/steps.py reach OUT           runs every test once, and notes how long it takes and which mutants it comes past
    ci/steps.py try OUT             tries those not yet in OUT/results.txt, against the tests that come past them, the most
                                    likely ones first, until one notices; and against no more than take STEP_BUDGET seconds
                                    without a mutant (12 if it is not said, 0 for all), and, whatever these take, before them: the
                                    models of the seeded bugs that stand in its function, the tests that ci/noticing.txt names for
                                    it, and those that have noticed others of it. Where that leaves tests out and none of the
                                    others notices, the mutant is UNFINISHED: neither noticed nor a survivor
    ci/steps.py tell OUT [LIST]     what became of them, by layer; what survived and is not in LIST, what is there and is
                                    noticed, and what is not judged
    ci/steps.py run OUT LIST FILE ...
                                    all of these; what was done before and is still true is not done again
    ci/steps.py again OUT           takes those that nothing noticed out of OUT/results.txt

`reach`, `try` and `run` stop after STEP_SECONDS, if they are said, with status 3 if there is more to do. They may be killed at any
time, too: the next call goes on. STEP_JOBS tests run at a time (1).

What has become of a mutant is true as long as no source and no test has changed. When some have, what was noticed stays noticed where
the text of the mutant's own file is the same, and everything else is tried again. (Without OUT all begins anew.) `tell` and `run` end
with status 1 if anything survived that is not listed, 4 if else something is not judged and not listed.

Two kinds, in functions outside tests: two statements that follow each other change places, and a statement that only calls
something is left out. Which ones there are depends on the text alone: `list` always answers the same.

A block with mutants becomes `match mutant(N) { 0 => { .. } 1 => { .. } .. _ => { as it was } }`, so that one build has them all.
What does not compile is no mutant, and left out of the next attempt.
"""

import ctypes
import filecmp
import hashlib
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

LAYERS = ["pal", "rcu", "region", "index", "heap", "global", "heaps", "paging"]
# Those of them that stand on the others, and have no tests but their own; and what of them models run.
ABOVE = ["heaps", "paging"]
MODELLED = "src/paging/waiting/"
OPENING, CLOSING = "([{", ")]}"
# The tests of real programs: those in Rust; and all of the preload library's.
RUST_TESTS = ["global_allocator", "interrupted", "limits", "lives", "rust_programs", "files", "walk", "profile"]
# What is built of what, and with which flags.
CRATE = ["--package=specmalloc"]
BUILDS = {
    "above": ("", [[*CRATE, *(f"--features={layer}" for layer in ABOVE), "--lib", *(f"--test={test}" for test in [*ABOVE, "heaps_alone"])]]),
    "plain": ("", [[*CRATE, "--lib", "--test=allocator_model"]]),
    "loom": ("--cfg loom", [[*CRATE, "--lib"]]),
    "shuttle": ("--cfg shuttle", [[*CRATE, "--lib"]]),
    "real": ("", [[*CRATE, "--features=files,profile", *(f"--test={test}" for test in RUST_TESTS)], ["--package=specmalloc-preload"]]),
}
# A test that takes so many times as long as usual, and as many seconds more, hangs.
PATIENCE, GRACE = 8, 5
# What becomes of a mutant that no test noticed: all that come past it were asked, there are none, or some were left out.
UNNOTICED = ["SURVIVED", "UNREACHED", "UNFINISHED"]
# Tests that are asked first.
NOTICING = "ci/noticing.txt"
# Bytes that a test may have resident.
MEMORY = 5 << 30

MUTANT = """
// Of `ci/steps.py`: which of the mutants from `first` on is in force, of those that stand together. The first time that it is asked, the
// environment says which one is in force; or that those that are come past are to be noted, in a file of which there is a byte for each.
// It is mapped, for later on a program may not open it any more.
pub fn mutant(first: u32) -> u32 {
    use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering::{Acquire, Relaxed, Release}};
    const UNREAD: u32 = u32::MAX;
    const NOTING: u32 = u32::MAX - 1;
    const MOST: usize = 1 << 14;
    static IN_FORCE: AtomicU32 = AtomicU32::new(UNREAD);
    static NOTED: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let mut number = IN_FORCE.load(Acquire);
    if number == UNREAD {
        unsafe {
            // Malloc is called before the C library has begun.
            if environ.is_null() {
                return u32::MAX;
            }
            let text = libc::getenv(c"STEP_MUTANT".as_ptr());
            number = if text.is_null() { NOTING - 1 } else { number_of(text) };
            let path = libc::getenv(c"STEP_REACH".as_ptr());
            if !path.is_null() {
                let file = system_call(libc::SYS_openat, [libc::AT_FDCWD as usize, path.addr(), libc::O_RDWR as usize, 0, 0, 0]);
                let access = (libc::PROT_READ | libc::PROT_WRITE) as usize;
                let noted = system_call(libc::SYS_mmap, [0, MOST, access, libc::MAP_SHARED as usize, file, 0]);
                system_call(libc::SYS_close, [file, 0, 0, 0, 0, 0]);
                // Above that are error numbers.
                if noted < usize::MAX - 4096 {
                    let noted = core::ptr::with_exposed_provenance_mut::<u8>(noted);
                    NOTED.store(noted, Relaxed);
                    number = NOTING;
                }
            }
        }
        IN_FORCE.store(number, Release);
    }
    if number == NOTING {
        unsafe { NOTED.load(Relaxed).add(first as usize % MOST).write_volatile(1) };
    }
    number.wrapping_sub(first)
}

unsafe fn number_of(text: *const libc::c_char) -> u32 {
    let digits = unsafe { core::ffi::CStr::from_ptr(text) }.to_bytes();
    digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0'))
}

// A program may have functions of its own that are called `open` or `mmap`, and there are tests of that.
#[cfg(target_arch = "x86_64")]
unsafe fn system_call(number: libc::c_long, arguments: [usize; 6]) -> usize {
    let returned;
    let [first, second, third, fourth, fifth, sixth] = arguments;
    unsafe {
        core::arch::asm!(
            "syscall", inlateout("rax") number as usize => returned,
            in("rdi") first, in("rsi") second, in("rdx") third, in("r10") fourth, in("r8") fifth, in("r9") sixth,
            lateout("rcx") _, lateout("r11") _, options(nostack),
        );
    }
    returned
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn system_call(number: libc::c_long, [first, second, third, fourth, fifth, sixth]: [usize; 6]) -> usize {
    unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) as usize }
}
"""
# Tests that measure the code as it is built, which is another one with all mutants in it: they are not asked.
MEASURING = r"real (instructions::.*|start::(relocations|resident_memory_of_a_small_program))$"
# Bytes of the file that they are noted in.
NOTED = 1 << 14


def blank(text):
    """The text with comments, strings and characters blanked, of the same length."""
    pattern = r'//[^\n]*|/\*.*?\*/|b?c?"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])\''
    return re.sub(pattern, lambda found: re.sub(r"[^\n]", " ", found.group()), text, flags=re.S)


def behind(code, start):
    """The index behind the bracket that closes the one at `start`."""
    depth = 0
    for at in range(start, len(code)):
        depth += (code[at] in OPENING) - (code[at] in CLOSING)
        if depth == 0:
            return at + 1
    return len(code)


def statements(code, start, end):
    """Where the statements of a block begin and end; what its last line answers is none of them."""
    found, begin, at = [], start, start
    while at < end:
        if code[at] in OPENING:
            brace = code[at] == "{"
            at = behind(code, at)
            # A block ends the statement that begins with it, unless there is more of it.
            whole = re.match(r"\s*('\w+:\s*)?(if|while|for|loop|match|unsafe|fn|impl|struct|\{)", code[begin:at])
            if brace and whole and not re.match(r"\s*(else\b|\.|\?|==|&&|\|\||\))", code[at:end]):
                found.append((begin, at))
                begin = at
            continue
        if code[at] == ";":
            found.append((begin, at + 1))
            begin = at + 1
        at += 1
    # What ends the block is what it answers, if it is a block itself.
    return [(first + len(code[first:last]) - len(code[first:last].lstrip()), last) for first, last in found]


def is_step(statement):
    """Whether a statement does something to others: it calls something, and neither leaves the block nor checks."""
    return "(" in statement and not re.match(
        r"(if seeded|return|break|continue|debug_assert|assert|#|use |fn |const |static |interrupt::point|let \w+ = (move )?\|)", statement
    )


def is_call(statement):
    """Whether it is a call and no more, so that it can be left out."""
    line = re.sub(r"\s+", " ", statement)
    line = re.sub(r"^unsafe \{ (.*[^;]);? \};?$", r"\1;", line)
    return re.match(r"(let _ = )?(?!let |if |match |for |while |loop )[\w.:*&<>, ]+\(.*\)(\.\w+\(.*\))*\??;$", line)


def functions(code):
    """Name, and begin and end of the body, of each function that a normal build compiles."""
    constants = [(found.start(), behind(code, found.end() - 1)) for found in re.finditer(r"\b(const_unless_model|macro_rules)!\s*\w*\s*\{", code)]
    last = 0
    for found in re.finditer(r"\bfn\s+(\w+)", code):
        head = code[: found.start()].rstrip().splitlines()[-4:]
        if any(re.search(r"#\[(test|cfg\((all\()?(test|loom|shuttle|any))", line) for line in head):
            continue
        if re.search(r"\bconst\s+(unsafe\s+)?$", code[: found.start()]) or any(a <= found.start() < b for a, b in constants):
            continue
        at = found.end()
        while at < len(code) and code[at] not in "{;":
            at = behind(code, at) if code[at] in "([" else at + 1
        # A function in another one is part of that.
        if at < len(code) and code[at] == "{" and at >= last:
            last = behind(code, at)
            yield found.group(1), at, last


def inner_blocks(code, start, end):
    """Those blocks of statements in the one between two braces that are in no other such block of it."""
    at = start + 1
    while at < end - 1:
        if code[at] == "{":
            head = re.split(r"[;{}]|=>", code[start:at])[-1]
            words = re.findall(r"\b(?:if|while|for|match|fn|loop|else|unsafe)\b|->", head)
            last = behind(code, at)
            if re.search(r"\bif seeded\([^{};]*$", code[start:at]) or re.search(r"\bconst\s*$", head):
                at = last
            elif head.strip().endswith("|") or not head.strip() or words and words[-1] != "match":
                yield at, last
                at = last
            else:
                at += 1
            continue
        at += 1


class Mutant:
    def __init__(self, name, block):
        self.name, self.block, self.number = name, block, None


def block_mutants(name, text, code, start, end, limit):
    """The mutants of one block, each with the text of the whole block."""
    steps = [step for step in statements(code, start + 1, end - 1) if step[1] <= limit]
    steps = [step for step in steps if not code[slice(*step)].startswith("interrupt::point")]
    for one, two in zip(steps, steps[1:]):
        first, second = text[slice(*one)], text[slice(*two)]
        defines = re.match(r"let (?:mut )?\(?(\w+)", first)
        uses = defines and re.search(rf"\b{defines.group(1)}\b", second)
        if not uses and is_step(code[slice(*one)]) and is_step(code[slice(*two)]):
            between = text[one[1] : two[0]]
            yield Mutant(
                f"{name}: swap {short(first)} and {short(second)}",
                text[start : one[0]] + second + between + first + text[two[1] : end],
            )
    for one in steps:
        if is_step(code[slice(*one)]) and is_call(code[slice(*one)]):
            yield Mutant(f"{name}: drop {short(text[slice(*one)])}", text[start : one[0]] + text[one[1] : end])


def block_tree(name, text, code, start, end, limit):
    """A block, its mutants, and the blocks in it."""
    own = list(block_mutants(name, text, code, start, end, limit))
    return start, end, own, [block_tree(name, text, code, *inner, limit) for inner in inner_blocks(code, start, end)]


def all_of(tree):
    """The mutants of a block and of those in it."""
    yield from tree[2]
    for inner in tree[3]:
        yield from all_of(inner)


def trees(text):
    """The bodies of a file's functions."""
    code = blank(text)
    # What stands below is for tests.
    tests = re.search(r"#\[cfg\(test\)\]\s*mod|#\[cfg\(all\(test[^\n]*\n\s*(pub(\(crate\))? )?mod \w+ \{", code)
    limit = tests.start() if tests else len(code)
    return [block_tree(name, text, code, start, end, limit) for name, start, end in functions(code) if end <= limit]


def mutants(text):
    for tree in trees(text):
        yield from all_of(tree)


def identity(path, mutant):
    """What tells a mutant from all others, whatever stands in other blocks."""
    return f"{path}: {mutant.name}: {hashlib.sha256(mutant.block.encode()).hexdigest()[:16]}"


def short(statement):
    """A statement on one line, cut."""
    line = re.sub(r"\s+", " ", re.sub(r"//[^\n]*", "", statement)).strip()
    return "`" + (line if len(line) <= 60 else line[:57] + "...") + "`"


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def write(path, text):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    if os.path.exists(path) and read(path) == text:
        return
    # At once: whoever is killed in between leaves what was there.
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".new", path)


class Writer:
    """A file with its mutants, and which lines are whose."""

    def __init__(self):
        self.text, self.line, self.places = [], 1, []

    def put(self, text):
        self.text.append(text)
        self.line += text.count("\n")

    def block(self, text, tree, dropped):
        start, end, own, inner = tree
        own = [mutant for mutant in own if mutant.number not in dropped]
        first = self.line
        if own:
            # Those that are dropped leave a gap in the numbers.
            self.put(f"{{ match crate::sync::mutant({tree[2][0].number}) {{\n")
            for mutant in own:
                begin = self.line
                self.put(f"{mutant.number - tree[2][0].number} => {mutant.block}\n")
                self.places.append((begin, self.line - 1, [mutant.number]))
            self.put("_ => ")
        at = start
        for block in inner:
            self.put(text[at : block[0]])
            self.block(text, block, dropped)
            at = block[1]
        self.put(text[at:end])
        if own:
            self.put("\n} }")
            self.places.append((first, self.line, [mutant.number for mutant in own]))


def builds_for(paths):
    """The builds whose tests may notice what is changed in files: all that STEP_BUILDS names, or those that fit."""
    above = [path.split("/")[1] in ABOVE for path in paths]
    modelled = any(path.startswith(MODELLED) for path in paths)
    fits = {"above": any(above), "loom": modelled or not all(above)}
    fit = [build for build in BUILDS if fits.get(build, not all(above))]
    return os.environ.get("STEP_BUILDS", " ".join(fit)).split()


def fingerprints(paths):
    """What the results depend on: of each file with mutants, and of all sources and tests together."""
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    sources = [path for path in tracked if re.search(r"\.(rs|toml|lock|c|h|sh)$", path) and not path.startswith("ci/") and os.path.exists(path)]
    own = {path: hashlib.sha256(read(path).encode()).hexdigest() for path in sources}
    chosen = os.environ.get("STEP_ONLY"), os.environ.get("STEP_BUILDS"), sorted(paths), MUTANT
    of_all = hashlib.sha256(json.dumps([sorted(own.items()), chosen]).encode()).hexdigest()
    return dict({path: own[path] for path in paths}, all=of_all)


def keep_what_is_true(out, paths):
    """Forgets the results that may not be true any more. Whether the tests that are built are those of the sources."""
    target, results = os.path.join(out, "of.json"), os.path.join(out, "results.txt")
    before, now = json.loads(read(target)) if os.path.exists(target) else {}, fingerprints(paths)
    if before.get("all") != now["all"]:
        kept = []
        for line in read(results).splitlines() if os.path.exists(results) else []:
            path = line.split(" | ", 1)[1].split(": ")[0]
            if not re.match("|".join(UNNOTICED), line) and path in now and before.get(path) == now[path]:
                kept.append(line)
        for old in ["reach.json", "made.json"]:
            if os.path.exists(os.path.join(out, old)):
                os.remove(os.path.join(out, old))
        write(results, "".join(line + "\n" for line in kept))
        if kept:
            print(f"sources or tests have changed: {len(kept)} mutants were noticed before, in files that have not", flush=True)
        write(target, json.dumps(now))
    return os.path.exists(os.path.join(out, "made.json"))


def make(out, paths):
    tree, only = os.path.join(out, "tree"), os.environ.get("STEP_ONLY")
    names = only and read(only).splitlines()
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    for path in filter(os.path.exists, tracked):
        target = os.path.join(tree, path)
        if path not in [*paths, "src/lib.rs", "src/sync/mod.rs"]:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            # What had mutants in the last build is older here than there, and cargo is to see that it has changed.
            if not os.path.exists(target) or not filecmp.cmp(path, target, shallow=False):
                shutil.copyfile(path, target)
                shutil.copymode(path, target)
    # A test that is gone would be built still.
    for folder, _, files in os.walk(tree):
        for file in files:
            path = os.path.join(folder, file)
            if file.endswith(".rs") and not os.path.exists(os.path.relpath(path, tree)):
                os.remove(path)
    write(os.path.join(tree, "src/sync/mod.rs"), read("src/sync/mod.rs") + MUTANT)
    write(os.path.join(tree, "src/lib.rs"), re.sub(r"\A(#!\[doc.*\n)", r"\1#![allow(warnings)]\n", read("src/lib.rs")))
    files, number, dropped = {}, 1, set()
    for path in paths:
        text = read(path)
        files[path] = (text, trees(text))
        for function in files[path][1]:
            for mutant in all_of(function):
                mutant.number = number
                number += 1
                if only and f"{path}: {mutant.name}" not in names:
                    dropped.add(mutant.number)
    left_out, binaries = len(dropped), {}
    # What did not compile in a file whose text is the same does not compile now.
    uncompiled = os.path.join(out, "uncompiled.json")
    known = json.loads(read(uncompiled)) if os.path.exists(uncompiled) else {}
    ids = {mutant.number: identity(path, mutant) for path, (_, ts) in files.items() for tree_ in ts for mutant in all_of(tree_)}
    dropped.update(number for number, name in ids.items() if name in known)
    while True:
        places = {}
        for path, (text, functions_of) in files.items():
            writer, at = Writer(), 0
            for function in functions_of:
                writer.put(text[at : function[0]])
                writer.block(text, function, dropped)
                at = function[1]
            writer.put(text[at:])
            places[path] = writer.places
            write(os.path.join(tree, path), "".join(writer.text))
        failed = None
        for build in builds_for(paths):
            flags, targets = BUILDS[build]
            binaries[build], failed = compile_tests(tree, build, flags, targets)
            if failed:
                break
        if not failed:
            break
        before = len(dropped)
        for path, line, message in failed:
            around = [place for place in places.get(path, []) if place[0] <= line <= place[1]]
            if not around:
                sys.exit(f"{path}:{line}: {message}: in no mutant")
            around = min(around, key=lambda place: place[1] - place[0])
            dropped.update(around[2])
            known.update((ids[number], message) for number in around[2])
        write(uncompiled, json.dumps(known))
        print(f"{build}: {len(failed)} errors; {len(dropped) - left_out} mutants do not compile", flush=True)
        assert len(dropped) > before
    table = {}
    for path, (_, functions_of) in files.items():
        for function in functions_of:
            note(table, path, function, dropped)
    # Mutants of one name are told apart by which of them it is.
    times = {}
    for number, (name, block) in table.items():
        times[name] = times.get(name, 0) + 1
        table[number] = (name if times[name] == 1 else f"{name} ~{times[name]}", block)
    write(os.path.join(out, "made.json"), json.dumps({"mutants": table, "binaries": binaries, "dropped": len(dropped) - left_out}, indent=1))
    print(f"{len(table)} mutants, {len(dropped) - left_out} more do not compile")


def note(table, path, tree, dropped):
    """Writes down the mutants of a block: the name, and what it is known by when it is come past."""
    own = [mutant for mutant in tree[2] if mutant.number not in dropped]
    for mutant in own:
        table[mutant.number] = (f"{path}: {mutant.name}", tree[2][0].number)
    for inner in tree[3]:
        note(table, path, inner, dropped)


def compile_tests(tree, build, flags, targets):
    """Paths of the tests' programs, or where it does not compile."""
    environment = dict(os.environ, CARGO_PROFILE_DEV_OPT_LEVEL="1", CARGO_PROFILE_DEV_DEBUG="0", CARGO_PROFILE_MODEL_DEBUG="0")
    environment["CARGO_TARGET_DIR"] = target_of(os.path.dirname(tree), build)
    cargo = [*os.environ.get("STEP_BUILD", "").split(), "cargo"]
    commands = [[*cargo, "test", "-q", "--no-run", "--message-format=json", *these] for these in targets]
    if flags:
        environment["RUSTFLAGS"] = flags
        commands = [[*command, "--profile=model"] for command in commands]
    if build == "real":
        commands.append([*cargo, "build", "-q", "--message-format=json", "--profile=preload", "--package=specmalloc-preload"])
    found, failed = [], set()
    for command in commands:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            if not line.startswith("{"):
                continue
            message = json.loads(line)
            if message["reason"] == "compiler-artifact" and message.get("executable") and message["profile"]["test"]:
                found.append(message["executable"])
            if message["reason"] == "compiler-message" and message["message"]["level"] == "error":
                for span in message["message"]["spans"]:
                    if span["is_primary"]:
                        failed.add((span["file_name"], span["line_start"], message["message"]["message"]))
        if done.returncode != 0:
            if not failed:
                sys.exit(done.stdout + done.stderr)
            break
    return found, failed


def target_of(out, build):
    return os.path.join(os.path.abspath(out), "target", build)


def with_parent():
    """Of a test: it ends with whoever started it, and leaves no dump."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    PRCTL(1, signal.SIGKILL)


PRCTL = ctypes.CDLL(None).prctl
RUNS = itertools.count()


def end_what_is_left(run):
    """Ends the programs that a test has left, which may be in groups of their own."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if f"STEP_RUN={run}".encode() in file.read().split(b"\0"):
                    os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass


def execute(program, test, out, limit, **more):
    """Whether a test fails, and how long it takes; one that hangs or swells fails."""
    environment = dict(os.environ, PROPTEST_CASES="16", **more)
    run = environment["STEP_RUN"] = f"{os.getpid()}.{next(RUNS)}"
    environment["SPECMALLOC_LIB"] = os.path.join(target_of(out, "real"), "preload", "libspecmalloc.so")
    begun = time.monotonic()
    child = subprocess.Popen(
        [program, "--exact", test, "--test-threads=1"], cwd=os.path.join(out, "tree"), env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=with_parent,
    )
    pause, look = 0.002, begun + 1
    while (status := child.poll()) is None:
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
        now, swells = time.monotonic(), False
        if now > look:
            look, swells = now + 1, resident(child.pid) > MEMORY
        if now - begun > limit or swells:
            status = "swells" if swells else "hangs"
            break
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()
    if status != 0:
        end_what_is_left(run)
    return status, time.monotonic() - begun


def resident(group):
    """Bytes that the processes of a group have resident."""
    pages = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
            pages += int(fields[21]) if int(fields[2]) == group else 0
        except (OSError, IndexError, ValueError):
            pass
    return pages * resource.getpagesize()


def reach(out, until):
    """Runs each test of each program, and writes down what it comes past."""
    made = json.loads(read(os.path.join(out, "made.json")))
    target = os.path.join(out, "reach.json")
    found = json.loads(read(target)) if os.path.exists(target) else {}
    # A lower layer's tests come past nothing of an upper one.
    lowest = min(LAYERS.index(name.split("/")[1]) for name, _ in made["mutants"].values())
    for build, programs in made["binaries"].items():
        for program in programs:
            listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout
            for test in re.findall(r"^(\S+): test$", listed, flags=re.M):
                # Programs have tests of the same name.
                key = f"{build} {os.path.basename(program).rpartition('-')[0]}::{test}" if build == "real" else f"{build} {test}"
                if "every_seeded" in test or re.match(MEASURING, key) or test.split("::")[0] in LAYERS[:lowest]:
                    continue
                if key in found and found[key]["program"] == program:
                    continue
                if time.monotonic() > until:
                    return 3
                notes = os.path.abspath(os.path.join(out, "notes"))
                with open(notes, "wb") as file:
                    file.write(bytes(NOTED))
                # Some tests are not root's for long.
                os.chmod(notes, 0o666)
                status, took = execute(program, test, out, 300, STEP_REACH=notes)
                if status != 0:
                    # Some count system calls, and see those of the notes.
                    status, took = execute(program, test, out, 300)
                if status != 0:
                    print(f"fails without a mutant: {key}: {status}", flush=True)
                with open(notes, "rb") as file:
                    blocks = [number for number, is_noted in enumerate(file.read()) if is_noted]
                found[key] = {"program": program, "test": test, "seconds": round(took, 3), "passes": status == 0, "blocks": blocks}
                write(target, json.dumps(found))
    return 0


def function_of(name):
    """The file and the function of a mutant."""
    return ": ".join(name.split(": ")[:2])


def last_of(test):
    """The last part of a test's name."""
    return test.split("::")[-1]


def results_of(out):
    """What was found out before: the outcome by the name."""
    results = os.path.join(out, "results.txt")
    lines = read(results).splitlines() if os.path.exists(results) else []
    return {name: outcome for outcome, name in (line.split(" | ", 1) for line in lines if " | " in line)}


def models_of_bugs(tree):
    """Of each function in which seeded bugs stand, by file and name: the models that are to notice these."""
    texts = {}
    for folder, _, files in os.walk(os.path.join(tree, "src")):
        for path in [os.path.join(folder, file) for file in files if file.endswith(".rs")]:
            texts[os.path.relpath(path, tree)] = read(path)
    seeded = {}
    for text in texts.values():
        for bug, model in re.findall(r'SeededBug::new\(\s*"([\w.]+)",\s*"[^"]*",\s*"(\w+)"', text):
            seeded.setdefault(bug, set()).add(model)
    found = {}
    for path, text in texts.items():
        for name, start, end in functions(blank(text)):
            for bug in re.findall(r'"([a-z]+\.\w+)"', text[start:end]):
                found.setdefault(f"{path}: {name}", set()).update(seeded.get(bug, ()))
    return found


def words_of_tests(tree, names):
    """Of each test, by the last part of its name: the words that stand in its text, the names of what it calls among them."""
    found = {}
    for folder, _, files in os.walk(tree):
        for path in [os.path.join(folder, file) for file in files if file.endswith(".rs")]:
            code = blank(read(path))
            for match in re.finditer(r"\bfn\s+(\w+)\s*\(\)[^{;]*\{", code):
                if match.group(1) in names:
                    body = code[match.end() - 1 : behind(code, match.end() - 1)]
                    found.setdefault(match.group(1), set()).update(re.findall(r"\w+", body))
    return found


def noticing(listing):
    """Of each function that is listed there, by file and name: the tests that are known to notice its mutants late."""
    lines = read(listing).splitlines() if os.path.exists(listing) else []
    found = [re.match(r"([^#]\S*: \w+) +-- (.*\S)", line) for line in lines]
    return {match.group(1): match.group(2).split(", ") for match in found if match}


def attempt(out, until):
    """Tries those that were not tried yet, `STEP_JOBS` at a time."""
    budget = float(os.environ.get("STEP_BUDGET", "12")) or float("inf")
    made = json.loads(read(os.path.join(out, "made.json")))["mutants"]
    tests = {key: test for key, test in json.loads(read(os.path.join(out, "reach.json"))).items() if test["passes"]}
    results, done, kills, of_functions = os.path.join(out, "results.txt"), results_of(out), {}, {}

    def learn(name, key):
        of_file = kills.setdefault(name.split(": ")[0], {})
        of_file[key] = of_file.get(key, 0) + 1
        of_functions.setdefault(function_of(name), set()).add(key)

    for name, outcome in done.items():
        learn(name, outcome.split(" (")[0])
    models = models_of_bugs(os.path.join(out, "tree"))
    late = noticing(NOTICING)
    words = words_of_tests(os.path.join(out, "tree"), {last_of(test["test"]) for test in tests.values()})
    left = [(number, name, block) for number, (name, block) in made.items() if name not in done]
    left.sort(key=lambda mutant: LAYERS.index(mutant[1].split("/")[1]))

    def judge(mutant):
        number, name, block = mutant
        if time.monotonic() > until:
            return False
        before = kills.setdefault(name.split(": ")[0], {})
        past = [key for key, test in tests.items() if block in test["blocks"]]
        function = function_of(name)
        named, known = models.get(function, ()), {*late.get(function, ()), *of_functions.get(function, ())}
        first = {key for key in past if last_of(tests[key]["test"]) in named or key in known}
        # Quick ones first, those that come past little else, and those that have noticed others of the file. (A model of a
        # seeded bug comes past much, and is for this; so are others of `first`, and those that call the function themselves.)
        calls = {key for key in past if function.split(": ")[1] in words.get(last_of(tests[key]["test"]), ())}
        weight = lambda key: 1 if key in first or key in calls else len(tests[key]["blocks"]) / (1 + before.get(key, 0))
        past.sort(key=lambda key: tests[key]["seconds"] * weight(key))
        outcome, spent, budget_left, left_out = "SURVIVED" if past else "UNREACHED", 0, budget, 0
        for key in past:
            test = tests[key]
            if key not in first and budget_left < test["seconds"]:
                left_out += 1
                outcome = f"UNFINISHED ({left_out} of {len(past)} tests left out)"
                continue
            budget_left -= 0 if key in first else test["seconds"]
            # What fails on the real thing fails again, and what hangs hangs again, if the mutant was why.
            for _ in range(2):
                status, took = execute(test["program"], test["test"], out, PATIENCE * test["seconds"] + GRACE, STEP_MUTANT=number)
                spent += took
                if status == 0 or status != "hangs" and not key.startswith("real"):
                    break
            if status != 0:
                # Some ask the system for figures, which may be why.
                alone, took = execute(test["program"], test["test"], out, PATIENCE * test["seconds"] + GRACE)
                spent += took
                status = status if alone == 0 else 0
            if status != 0:
                learn(name, key)
                outcome = f"{key} ({status})"
                break
        with open(results, "a", encoding="utf-8") as file:
            file.write(f"{outcome} | {name}\n")
        print(f"{spent:6.1f} s  {outcome} | {name}", flush=True)
        return True

    with ThreadPoolExecutor(int(os.environ.get("STEP_JOBS", "1"))) as workers:
        return 0 if all(list(workers.map(judge, left))) else 3


def tell(out, listing=None):
    """What became of the mutants; 1 if anything survived that is not listed, 4 if anything is not judged and not listed."""
    made = json.loads(read(os.path.join(out, "made.json")))
    names, done = [name for name, _ in made["mutants"].values()], results_of(out)
    files = {name.split(": ")[0] for name in names}
    listed = {}
    for line in read(listing).splitlines() if listing else []:
        found = re.match(r"([^:#]+): step (.*\S) +-- ", line)
        if found and found.group(1) in files:
            name = f"{found.group(1)}: {found.group(2)}"
            listed[name] = listed.get(name, 0) + 1
    kinds = ["noticed", *(kind.lower() for kind in UNNOTICED), "not tried", "listed"]
    layers, lines, few = {}, {kind: [] for kind in kinds}, dict(listed)
    for name in names:
        outcome = done.get(name, "NOT TRIED").split(" (")[0]
        kind = outcome.lower() if outcome in [*UNNOTICED, "NOT TRIED"] else "noticed"
        counts = layers.setdefault(name.split("/")[1], dict.fromkeys(["mutants", *kinds], 0))
        plain = re.sub(r" ~\d+$", "", name)
        is_listed = kind != "noticed" and few.get(plain, 0) > 0
        few[plain] = few.get(plain, 0) - is_listed
        counts["mutants"] += 1
        counts[kind] += 1
        counts["listed"] += is_listed and kind != "not tried"
        if not is_listed:
            lines[kind].append(f"{plain.replace(': ', ': step ', 1)}{done.get(name, '').removeprefix(outcome)}")
    for layer in sorted(layers, key=LAYERS.index):
        print(f"{layer}: " + ", ".join(f"{count} {kind}" for kind, count in layers[layer].items()))
    reached = os.path.join(out, "reach.json")
    tests = json.loads(read(reached)) if os.path.exists(reached) else {}
    failing = [key for key, test in tests.items() if not test["passes"]]
    dead = [name for name, count in few.items() for _ in range(count)]
    built = {test.split(" ")[0] for test in tests}
    here = {function_of(name) for name in names}
    late = [(function, test) for function, known in noticing(NOTICING).items() if function in here for test in known]
    missing = [f"{function}: {test}" for function, test in late if test.split(" ")[0] in built and test not in tests]
    for title, which in [
        ("fails without a mutant, so it is not asked", failing),
        ("named in ci/noticing.txt, but there is no such test", missing),
        ("listed, but noticed now, or no mutant any more", dead),
        ("out of budget, and not listed", lines["unfinished"]),
        ("no test comes past, and not listed", lines["unreached"]),
        ("survived, and not listed", lines["survived"]),
    ]:
        if which:
            print(f"== {title}: {len(which)}", *sorted(which), sep="\n")
    if lines["survived"] or lines["unreached"]:
        return 1
    return 4 if lines["unfinished"] or lines["not tried"] else 0


def run(out, listing, paths, until):
    """All there is to do, and what came of it; goes on where the last one stopped."""
    os.makedirs(out, exist_ok=True)
    if not keep_what_is_true(out, paths):
        make(out, paths)
    if status := reach(out, until) or attempt(out, until):
        print(f"{len(results_of(out))} mutants were tried; the next call goes on")
        return status
    return tell(out, listing)


def main(arguments):
    until = time.monotonic() + float(os.environ.get("STEP_SECONDS", "inf"))
    # Whoever ends this ends the test that runs.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    match arguments:
        case ["list", *paths]:
            for path in paths:
                for mutant in mutants(read(path)):
                    print(f"{path}: {mutant.name}")
        case ["make", out, *paths]:
            os.makedirs(out, exist_ok=True)
            keep_what_is_true(out, paths)
            make(out, paths)
        case ["reach", out]:
            return reach(out, until)
        case ["try", out]:
            return attempt(out, until)
        case ["tell", out, *listing]:
            return tell(out, *listing)
        case ["run", out, listing, *paths]:
            return run(out, listing, paths, until)
        case ["again", out]:
            results = os.path.join(out, "results.txt")
            write(results, "".join(line + "\n" for line in read(results).splitlines() if not re.match("|".join(UNNOTICED), line)))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


sys.exit(main(sys.argv[1:]))
