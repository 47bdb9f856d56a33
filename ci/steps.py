#!/usr/bin/env python3
"""Step mutants: changes that a careless edit would make to the order of a protocol.

    ci/steps.py list FILE ...           the mutants, one a line: a name without line numbers
    ci/steps.py apply FILE NUMBER       makes one of them, in place
    ci/steps.py run TREE COMMAND FILE ...
                                        makes each in a copy of the sources in TREE, runs COMMAND there, and prints those that
                                        it does not notice

Two kinds, in functions outside tests: two statements that follow each other change places, and a statement that only calls
something is left out. Which ones there are depends on the text alone: `list` always answers the same.
"""

import os
import re
import subprocess
import sys

OPENING, CLOSING = "([{", ")]}"


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
            rest = code[at:end].lstrip()
            # A block ends a statement, unless something of the same one follows.
            if brace and not rest.startswith((";", ".", "else", "?", ")", ",")) and "=" not in code[begin:at].split("{")[0]:
                found.append((begin, at))
                begin = at
            continue
        if code[at] == ";":
            found.append((begin, at + 1))
            begin = at + 1
        at += 1
    return [(first + len(code[first:last]) - len(code[first:last].lstrip()), last) for first, last in found]


def is_step(statement):
    """Whether a statement does something to others: it calls something, and neither leaves the block nor checks."""
    word = statement.split("(")[0].strip()
    return "(" in statement and not re.match(r"(if seeded|return|break|continue|debug_assert|assert|let\s+Some|#|unsafe\s*\{?\s*$|use |fn )", word)


def functions(code):
    """Name, and begin and end of the body, of each function that a normal build compiles."""
    for found in re.finditer(r"\bfn\s+(\w+)", code):
        head = code[: found.start()].rstrip().splitlines()[-4:]
        if any(re.search(r"#\[(test|cfg\((all\()?(test|loom|shuttle|any))", line) for line in head):
            continue
        at = found.end()
        while at < len(code) and code[at] not in "{;":
            at = behind(code, at) if code[at] in "([" else at + 1
        if at < len(code) and code[at] == "{":
            yield found.group(1), at + 1, behind(code, at) - 1


def blocks(code, start, end):
    """Every block in a body, itself first, but for those of seeded bugs."""
    yield start, end
    at = start
    while at < end:
        if code[at] == "{":
            if re.search(r"if seeded\([^{};]*$", code[start:at]):
                at = behind(code, at)
                continue
            yield at + 1, behind(code, at) - 1
        at += 1


def mutants(text):
    """Name and text of each mutant."""
    code = blank(text)
    # What stands below is for tests.
    tests = re.search(r"#\[cfg\(test\)\]\s*mod|#\[cfg\(all\(test[^\n]*\n\s*(pub(\(crate\))? )?mod \w+ \{", code)
    limit = tests.start() if tests else len(code)
    seen = set()
    for name, start, end in functions(code):
        for block in blocks(code, start, end):
            steps = [step for step in statements(code, *block) if step[1] <= limit]
            for one, two in zip(steps, steps[1:]):
                first, second = text[slice(*one)], text[slice(*two)]
                defines = re.match(r"let (?:mut )?\(?(\w+)", first)
                uses = defines and re.search(rf"\b{defines.group(1)}\b", second)
                if (one, two) in seen or uses or not (is_step(code[slice(*one)]) and is_step(code[slice(*two)])):
                    continue
                seen.add((one, two))
                between = text[one[1] : two[0]]
                yield f"{name}: swap {short(first)} and {short(second)}", text[: one[0]] + second + between + first + text[two[1] :]
            for one in steps:
                first = text[slice(*one)]
                is_call = re.match(r"[\w.:*&<>, ]+\(.*\)(\.\w+\(.*\))*;$", re.sub(r"\s+", " ", code[slice(*one)]))
                if one in seen or not is_call or not is_step(code[slice(*one)]):
                    continue
                seen.add(one)
                yield f"{name}: drop {short(first)}", text[: one[0]] + text[one[1] :]


def short(statement):
    """A statement on one line, cut."""
    line = re.sub(r"\s+", " ", re.sub(r"//[^\n]*", "", statement)).strip()
    return "`" + (line if len(line) <= 60 else line[:57] + "...") + "`"


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def run(tree, command, paths):
    """Tries every mutant, and prints what became of it. What does not compile is no mutant."""
    survivors = 0
    for path in paths:
        target = os.path.join(tree, path)
        text = read(target)
        try:
            for name, mutant in mutants(text):
                write(target, mutant)
                status = subprocess.run(["sh", "-c", command], cwd=tree, capture_output=True, check=False).returncode
                if status == 0:
                    survivors += 1
                outcome = {0: "SURVIVED", 3: "does not build"}.get(status, "noticed")
                print(f"{outcome}: {path}: {name}", flush=True)
        finally:
            write(target, text)
    return survivors


def main(arguments):
    match arguments:
        case ["list", *paths]:
            for path in paths:
                for name, _ in mutants(read(path)):
                    print(f"{path}: {name}")
        case ["apply", path, number]:
            write(path, list(mutants(read(path)))[int(number)][1])
        case ["run", tree, command, *paths]:
            return min(run(tree, command, paths), 1)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


sys.exit(main(sys.argv[1:]))
