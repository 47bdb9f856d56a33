//! Rust source as tokens, without comments and literals, and without what a normal build leaves out.

/// What a token is. What stands in a literal or a comment is no word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An identifier or a keyword.
    Word(String),
    /// One character of punctuation; `::` is two.
    Mark(char),
    /// A number, string or character, as it is written.
    Literal(String),
    /// A lifetime or a label.
    Lifetime,
}

/// A token and the line that it stands on, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub line: usize,
}

impl Token {
    pub fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(own) if own == word)
    }

    pub fn is_mark(&self, mark: char) -> bool {
        self.kind == Kind::Mark(mark)
    }

    pub fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// The code of one file that a normal build compiles.
pub struct Product {
    pub tokens: Vec<Token>,
    /// Modules in files of their own whose declaration a normal build leaves out.
    pub absent_modules: Vec<String>,
}

struct Lexer {
    text: Vec<char>,
    at: usize,
    line: usize,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> char {
        self.text.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn skip(&mut self, count: usize) {
        let end = (self.at + count).min(self.text.len());
        self.line += self.text[self.at..end].iter().filter(|&&c| c == '\n').count();
        self.at = end;
    }

    fn done(&self) -> bool {
        self.at >= self.text.len()
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        while !self.done() {
            match (self.peek(0), self.peek(1)) {
                ('/', '*') => depth += 1,
                ('*', '/') => depth -= 1,
                _ => {
                    self.skip(1);
                    continue;
                }
            }
            self.skip(2);
            if depth == 0 {
                return;
            }
        }
    }

    /// From the opening quote to behind the closing one, over escapes.
    fn skip_quoted(&mut self, quote: char) {
        self.skip(1);
        while !self.done() && self.peek(0) != quote {
            self.skip(if self.peek(0) == '\\' { 2 } else { 1 });
        }
        self.skip(1);
    }

    /// From the first `#` or the quote behind an `r` to the end of the raw string.
    fn skip_raw(&mut self, hashes: usize) {
        self.skip(hashes + 1);
        let closes =
            |lexer: &Lexer| lexer.peek(0) == '"' && (1..=hashes).all(|ahead| lexer.peek(ahead) == '#');
        while !self.done() && !closes(self) {
            self.skip(1);
        }
        self.skip(1 + hashes);
    }

    fn word(&mut self) -> String {
        let start = self.at;
        while self.peek(0).is_alphanumeric() || self.peek(0) == '_' {
            self.skip(1);
        }
        self.text[start..self.at].iter().collect()
    }

    fn literal_from(&self, start: usize) -> Kind {
        Kind::Literal(self.text[start..self.at].iter().collect())
    }

    fn next(&mut self) -> Option<Kind> {
        let start = self.at;
        let first = self.peek(0);
        if first == '_' || first.is_alphabetic() {
            let word = self.word();
            let hashes = (0..).take_while(|&ahead| self.peek(ahead) == '#').count();
            return Some(match word.as_str() {
                "r" | "br" | "cr" if self.peek(hashes) == '"' => {
                    self.skip_raw(hashes);
                    self.literal_from(start)
                }
                "b" | "c" if self.peek(0) == '"' => {
                    self.skip_quoted('"');
                    self.literal_from(start)
                }
                "r" if hashes == 1 => {
                    self.skip(1);
                    Kind::Word(self.word())
                }
                _ => Kind::Word(word),
            });
        }
        match first {
            '/' if self.peek(1) == '/' => {
                while !self.done() && self.peek(0) != '\n' {
                    self.skip(1);
                }
                return None;
            }
            '/' if self.peek(1) == '*' => {
                self.skip_block_comment();
                return None;
            }
            '"' => self.skip_quoted('"'),
            '\'' if self.peek(1) != '\\' && self.peek(2) != '\'' => {
                self.skip(1);
                self.word();
                return Some(Kind::Lifetime);
            }
            '\'' => self.skip_quoted('\''),
            _ if first.is_ascii_digit() => {
                self.word();
            }
            _ => {
                self.skip(1);
                return (!first.is_whitespace()).then_some(Kind::Mark(first));
            }
        }
        Some(self.literal_from(start))
    }
}

/// All tokens of `text`.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { text: text.chars().collect(), at: 0, line: 1 };
    let mut tokens = Vec::new();
    while !lexer.done() {
        let line = lexer.line;
        tokens.extend(lexer.next().map(|kind| Token { kind, line }));
    }
    tokens
}

/// The index behind the bracket that closes the one at `open`.
pub fn behind_group(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Mark('(' | '[' | '{') => depth += 1,
            Kind::Mark(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

/// Features that are on in a normal build: those of the library that programs see, and one of a crate beside it.
const FEATURES: [&str; 6] = ["std", "files", "heaps", "paging", "profile", "pprof"];

/// What the predicate of a cfg comes to in a normal build, where of `test`, `loom`, `shuttle` and the features only
/// [`FEATURES`] are set; `None` if that depends on the machine.
fn predicate(tokens: &[Token]) -> Option<bool> {
    let inner = || {
        let mut rest = &tokens[2..tokens.len() - 1];
        let mut values = Vec::new();
        while !rest.is_empty() {
            let mut end = 0;
            while end < rest.len() && !rest[end].is_mark(',') {
                end = if rest[end].is_mark('(') { behind_group(rest, end) } else { end + 1 };
            }
            values.push(predicate(&rest[..end]));
            rest = &rest[(end + 1).min(rest.len())..];
        }
        values
    };
    match tokens.first()?.word()? {
        "test" | "loom" | "shuttle" if tokens.len() == 1 => Some(false),
        // Those of products; the other is for tests.
        "feature" => Some(matches!(&tokens.last()?.kind,
            Kind::Literal(text) if FEATURES.contains(&text.trim_matches('"')))),
        "not" => inner().first().copied()?.map(|value| !value),
        "all" if inner().contains(&Some(false)) => Some(false),
        "all" => inner().iter().all(|value| *value == Some(true)).then_some(true),
        "any" if inner().contains(&Some(true)) => Some(true),
        "any" => inner().iter().all(|value| *value == Some(false)).then_some(false),
        _ => None,
    }
}

/// Whether the attribute whose `[` is at `open` keeps what follows out of a normal build.
fn leaves_out(tokens: &[Token], open: usize) -> bool {
    let content = &tokens[open + 1..behind_group(tokens, open) - 1];
    match content {
        [only] => only.is_word("test"),
        [cfg, rest @ ..] if cfg.is_word("cfg") => predicate(&rest[1..rest.len() - 1]) == Some(false),
        _ => false,
    }
}

const ITEMS: [&str; 16] = [
    "pub",
    "fn",
    "mod",
    "use",
    "static",
    "const",
    "struct",
    "enum",
    "union",
    "impl",
    "trait",
    "type",
    "unsafe",
    "extern",
    "macro_rules",
    "async",
];

/// The index behind the item, statement, field or arm that starts at `start`.
fn behind_item(tokens: &[Token], start: usize) -> usize {
    let is_item = tokens.get(start).and_then(Token::word).is_some_and(|word| ITEMS.contains(&word));
    let mut index = start;
    while index < tokens.len() {
        match tokens[index].kind {
            Kind::Mark(';') => return index + 1,
            Kind::Mark(',') if !is_item => return index + 1,
            Kind::Mark('}' | ')' | ']') => return index,
            Kind::Mark('{') => {
                index = behind_group(tokens, index);
                let ends = tokens.get(index).is_some_and(|next| next.is_mark(';') || next.is_mark(','));
                return index + usize::from(ends);
            }
            Kind::Mark('(' | '[') => index = behind_group(tokens, index),
            _ => index += 1,
        }
    }
    index
}

/// The code of a file that a normal build compiles; `None` if that leaves the whole file out.
pub fn product(text: &str) -> Option<Product> {
    let tokens = tokens(text);
    let mut product = Product { tokens: Vec::new(), absent_modules: Vec::new() };
    let mut index = 0;
    while index < tokens.len() {
        let opens = |at: usize| tokens.get(at).is_some_and(|next| next.is_mark('['));
        if tokens[index].is_mark('#')
            && tokens.get(index + 1).is_some_and(|next| next.is_mark('!'))
            && opens(index + 2)
        {
            if leaves_out(&tokens, index + 2) {
                return None;
            }
            index = behind_group(&tokens, index + 2);
            continue;
        }
        if !(tokens[index].is_mark('#') && opens(index + 1)) {
            product.tokens.push(tokens[index].clone());
            index += 1;
            continue;
        }
        // All attributes of one item, any of which may leave it out.
        let mut absent = false;
        while index < tokens.len() && tokens[index].is_mark('#') && opens(index + 1) {
            absent |= leaves_out(&tokens, index + 1);
            index = behind_group(&tokens, index + 1);
        }
        if absent {
            let end = behind_item(&tokens, index);
            let item = &tokens[index..end];
            if let [.., keyword, name, last] = item
                && keyword.is_word("mod")
                && last.is_mark(';')
            {
                product.absent_modules.extend(name.word().map(str::to_owned));
            }
            index = end;
        }
    }
    Some(product)
}
