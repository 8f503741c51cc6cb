//! One segment of a glob pattern, with the meaning of Go's `path.Match` (compat 1.3).
//!
//! `*` is any run of characters, `?` any one, `[a-z]` and `[^a-z]` a class, `\` takes the next
//! character literally. Matching keeps one back-tracking point, so it costs at most the product of
//! both lengths.

/// A compiled glob segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Box<[Token]>,
}

/// One element of a glob.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// `*`
    Run,
    /// `?`
    One,
    /// Itself.
    Literal(char),
    /// `[...]`
    Class {
        negated: bool,
        ranges: Box<[(char, char)]>,
    },
}

/// Why a segment is no glob, in words for the pattern's author.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GlobError {
    /// `[` without its `]`, an empty class, a dangling `-` or `\`.
    Malformed,
    /// `**`, which elsewhere means a subtree and here would not.
    DoubleStar,
    /// `[z-a]` holds nothing.
    EmptyRange,
}

impl Glob {
    /// Compiles one segment, percent escapes already decoded.
    pub(super) fn parse(text: &str) -> Result<Self, GlobError> {
        let mut tokens = Vec::new();
        let mut rest = text.chars();
        while let Some(character) = rest.next() {
            tokens.push(match character {
                '*' if tokens.last() == Some(&Token::Run) => return Err(GlobError::DoubleStar),
                '*' => Token::Run,
                '?' => Token::One,
                '\\' => Token::Literal(rest.next().ok_or(GlobError::Malformed)?),
                '[' => parse_class(&mut rest)?,
                other => Token::Literal(other),
            });
        }
        Ok(Self {
            tokens: tokens.into(),
        })
    }

    /// Whether the whole segment matches.
    #[must_use]
    pub fn matches(&self, segment: &str) -> bool {
        self.run(segment, |token, found| token.accepts(found))
    }

    /// Whether the whole segment matches when ASCII letters have no case.
    #[must_use]
    pub fn matches_folded(&self, segment: &str) -> bool {
        self.run(segment, |token, found| {
            token.accepts(found.to_ascii_lowercase()) || token.accepts(found.to_ascii_uppercase())
        })
    }

    /// Characters that stand for themselves.
    pub(super) fn literal_len(&self) -> usize {
        self.tokens
            .iter()
            .filter(|token| matches!(token, Token::Literal(_)))
            .count()
    }

    /// Literal characters before the first wildcard.
    pub(super) fn literal_prefix_len(&self) -> usize {
        self.tokens
            .iter()
            .take_while(|token| matches!(token, Token::Literal(_)))
            .count()
    }

    fn run(&self, segment: &str, accepts: impl Fn(&Token, char) -> bool) -> bool {
        let mut tokens = self.tokens.iter();
        let mut text = segment.chars();
        // Where to go on after the last `*` when the rest does not fit.
        let mut retry: Option<(std::slice::Iter<'_, Token>, std::str::Chars<'_>)> = None;
        loop {
            match tokens.next() {
                Some(Token::Run) => {
                    retry = Some((tokens.clone(), text.clone()));
                    continue;
                }
                Some(token) if next_is(&mut text, |found| accepts(token, found)) => continue,
                None if text.as_str().is_empty() => return true,
                Some(_) | None => {}
            }
            let Some((after_run, from)) = &mut retry else {
                return false;
            };
            if from.next().is_none() {
                return false;
            }
            tokens = after_run.clone();
            text = from.clone();
        }
    }
}

impl Token {
    fn accepts(&self, found: char) -> bool {
        match self {
            Self::Run | Self::One => true,
            Self::Literal(literal) => *literal == found,
            Self::Class { negated, ranges } => {
                *negated
                    != ranges
                        .iter()
                        .any(|(low, high)| (*low..=*high).contains(&found))
            }
        }
    }
}

/// Takes the next character and tests it.
fn next_is(text: &mut std::str::Chars<'_>, test: impl FnOnce(char) -> bool) -> bool {
    text.next().is_some_and(test)
}

/// The rest of a class after its `[`.
fn parse_class(rest: &mut std::str::Chars<'_>) -> Result<Token, GlobError> {
    let mut peek = rest.clone();
    let negated = peek.next() == Some('^');
    if negated {
        *rest = peek;
    }
    let mut ranges = Vec::new();
    loop {
        let mut peek = rest.clone();
        if peek.next() == Some(']') && !ranges.is_empty() {
            *rest = peek;
            return Ok(Token::Class {
                negated,
                ranges: ranges.into(),
            });
        }
        let low = parse_class_character(rest)?;
        let mut peek = rest.clone();
        let high = if peek.next() == Some('-') {
            *rest = peek;
            parse_class_character(rest)?
        } else {
            low
        };
        if low > high {
            return Err(GlobError::EmptyRange);
        }
        ranges.push((low, high));
    }
}

/// One end of a range; `-` and `]` only after a backslash.
fn parse_class_character(rest: &mut std::str::Chars<'_>) -> Result<char, GlobError> {
    match rest.next() {
        None | Some('-' | ']') => Err(GlobError::Malformed),
        Some('\\') => rest.next().ok_or(GlobError::Malformed),
        Some(other) => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of Go's own `path/match_test.go`, but for `**` and inverted ranges, which we refuse.
    #[test]
    fn globs_mean_what_go_path_match_means() {
        for (glob, text, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*", "", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*b*c*d*e*", "axbxcxdxe", true),
            ("a*b*c*d*e*", "axbxcxdxexxx", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^b-d]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "x", true),
            ("[x\\-]", "z", false),
            ("[\\-x]", "-", true),
            ("*x", "xxx", true),
        ] {
            assert_eq!(
                Glob::parse(glob).unwrap().matches(text),
                expected,
                "{glob} {text}"
            );
        }
    }

    #[test]
    fn malformed_globs_are_refused_by_kind() {
        for text in [
            "[]a]", "[-]", "[x-]", "[-x]", "[", "[^", "[^bc", "a[", "a\\",
        ] {
            assert_eq!(Glob::parse(text), Err(GlobError::Malformed), "{text}");
        }
        assert_eq!(Glob::parse("a**"), Err(GlobError::DoubleStar));
        assert_eq!(Glob::parse("[z-a]"), Err(GlobError::EmptyRange));
    }

    #[test]
    fn folding_ignores_ascii_case_only() {
        let glob = Glob::parse("Ab[X-Z]*é").unwrap();
        assert!(!glob.matches("abyé"));
        assert!(glob.matches_folded("aByé"));
        assert!(!glob.matches_folded("aByÉ"));
    }
}
