//! Real upstreams, each modelled from its own rules and from none of our code, against the table.
//!
//! A paid path is disguised by composing encodings, dot segments, parameters, slashes and case.
//! Whatever leads one of the upstreams to the paid handler must not be free, nor pass unmatched.

use super::*;

/// Text in which every escape is decoded once; `None` for what an upstream would refuse.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Dot segments resolved, empty segments kept or dropped.
fn resolved(path: &str, merge: bool, is_dots: impl Fn(&str) -> usize) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match is_dots(segment) {
            1 => {}
            2 => drop(kept.pop()),
            _ if merge && segment.is_empty() => {}
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

fn literal_dots(segment: &str) -> usize {
    match segment {
        "." => 1,
        ".." => 2,
        _ => 0,
    }
}

/// The WHATWG URL standard: a dot may be encoded.
fn url_dots(segment: &str) -> usize {
    literal_dots(&segment.to_ascii_lowercase().replace("%2e", "."))
}

fn segments(path: &str) -> Vec<String> {
    path.split('/').skip(1).map(str::to_owned).collect()
}

fn decoded_segments(path: &str) -> Option<Vec<String>> {
    path.split('/').skip(1).map(decoded).collect()
}

fn without_parameters(path: &str) -> String {
    let names = path.split('/').map(|segment| segment.split(';').next());
    names
        .map(Option::unwrap_or_default)
        .collect::<Vec<_>>()
        .join("/")
}

/// Go's `ServeMux` since 1.22: redirects what is not clean, splits, then decodes.
fn go(path: &str) -> Option<Vec<String>> {
    (resolved(path, true, literal_dots).trim_end_matches('/') == path.trim_end_matches('/'))
        .then(|| decoded_segments(path))?
}

/// `new URL(target, base).pathname` as Hono, Next and Deno use it, then a router on segments.
fn url(path: &str) -> Option<Vec<String>> {
    let path = path.replace('\\', "/");
    let path = match path.strip_prefix("//") {
        Some(rest) => match rest.trim_start_matches('/').split_once('/') {
            Some((_host, path)) => format!("/{path}"),
            None => "/".to_owned(),
        },
        None => path,
    };
    decoded_segments(&resolved(&path, false, url_dots))
}

/// Tomcat: parameters, decoding, backslash, slashes, dots, in this order.
fn tomcat(path: &str) -> Option<Vec<String>> {
    let path = decoded(&without_parameters(path))?.replace('\\', "/");
    Some(segments(&resolved(&path, true, literal_dots)))
}

/// A servlet container that strips after decoding.
fn late_parameters(path: &str) -> Option<Vec<String>> {
    let path = without_parameters(&decoded(path)?.replace('\\', "/"));
    Some(segments(&resolved(&path, true, literal_dots)))
}

/// nginx's `$uri`.
fn nginx(path: &str) -> Option<Vec<String>> {
    Some(segments(&resolved(&decoded(path)?, true, literal_dots)))
}

/// A proxy that resolves what is literal before nginx.
fn behind_a_cleaner(path: &str) -> Option<Vec<String>> {
    nginx(&resolved(path, false, literal_dots))
}

/// Envoy with `normalize_path` and `merge_slashes`, then a server that decodes.
fn behind_envoy(path: &str) -> Option<Vec<String>> {
    nginx(&resolved(&path.replace('\\', "/"), true, url_dots))
}

/// A gateway that decodes before a WSGI server that decodes as well.
fn decoded_twice(path: &str) -> Option<Vec<String>> {
    nginx(&decoded(path)?)
}

/// A server that decodes before it looks for the query.
fn late_query(path: &str) -> Option<Vec<String>> {
    let path = decoded(path)?;
    Some(segments(path.split(['?', '#']).next()?))
}

/// Express: as it is, in any case.
fn express(path: &str) -> Option<Vec<String>> {
    Some(segments(&path.to_ascii_lowercase()))
}

/// IIS: nginx with backslashes, in any case.
fn iis(path: &str) -> Option<Vec<String>> {
    let path = decoded(path)?.replace('\\', "/").to_ascii_lowercase();
    Some(segments(&resolved(&path, true, literal_dots)))
}

type Upstream = fn(&str) -> Option<Vec<String>>;

const UPSTREAMS: [(&str, Upstream); 11] = [
    ("go", go),
    ("url", url),
    ("tomcat", tomcat),
    ("late parameters", late_parameters),
    ("nginx", nginx),
    ("cleaner", behind_a_cleaner),
    ("envoy", behind_envoy),
    ("twice", decoded_twice),
    ("late query", late_query),
    ("express", express),
    ("iis", iis),
];

/// Whether `/api/paid/*` or `/u/*/x` serves it.
fn is_paid(segments: &[String]) -> bool {
    let found: Vec<&str> = segments.iter().map(String::as_str).collect();
    match found[..] {
        ["api", "paid", ..] | ["u", _, "x" | "x/"] | ["u", _, "x", ""] => true,
        [..] => false,
    }
}

/// One disguise at a place of a target.
#[derive(Debug, Clone)]
enum Disguise {
    Insert(&'static str),
    Encode,
    EncodeTwice,
    Upper,
    EncodeAll,
}

fn disguise() -> impl Strategy<Value = (Disguise, prop::sample::Index)> {
    use Disguise::{Encode, EncodeAll, EncodeTwice, Insert, Upper};
    let inserted = prop::sample::select(vec![
        "/",
        "/.",
        "/./",
        "/x/..",
        "/x/%2e%2e",
        "/x/%2e.",
        "/x/%252e%252e",
        "/..",
        "/%2e%2e",
        "/x%2fy/..",
        "/x%2fy/%2e%2e",
        "/x%2Fy",
        "%2f",
        "%252f",
        "\\",
        "%5c",
        "%255c",
        ";",
        ";a=b",
        "%3b",
        ";%2fx",
        "%3bx",
        ";x%2fy/..",
        "%3f",
        "%23x",
        "%2500",
        "//x",
        "/x;/..;",
        "/..;a",
        "/x/..%3b",
        "%2f..",
        "%5c..",
        "\\x\\..",
    ]);
    let change = prop_oneof![
        8 => inserted.prop_map(Insert),
        3 => Just(Encode),
        1 => Just(EncodeTwice),
        2 => Just(Upper),
        1 => Just(EncodeAll),
    ];
    (change, any::<prop::sample::Index>())
}

fn disguised(target: &str, disguises: Vec<(Disguise, prop::sample::Index)>) -> String {
    let mut text = target.to_owned();
    for (disguise, index) in disguises {
        let insert = matches!(disguise, Disguise::Insert(_));
        // Most meanings change at a segment's end.
        let ends: Vec<usize> = (0..=text.len())
            .filter(|at| *at == text.len() || text.as_bytes()[*at] == b'/')
            .collect();
        let at = if insert {
            ends[index.index(ends.len())]
        } else {
            1 + index.index(text.len().max(2) - 1)
        };
        let letter = text.as_bytes().get(at).copied();
        let (head, tail) = text.split_at(at.min(text.len()));
        let rest = tail.get(1..).unwrap_or_default();
        text = match (disguise, letter) {
            (Disguise::Insert(inserted), _) => format!("{head}{inserted}{tail}"),
            (Disguise::Encode, Some(letter)) => format!("{head}%{letter:02x}{rest}"),
            (Disguise::EncodeTwice, Some(letter)) => format!("{head}%25{letter:02X}{rest}"),
            (Disguise::Upper, Some(letter)) => {
                format!("{head}{}{rest}", char::from(letter.to_ascii_uppercase()))
            }
            (Disguise::EncodeAll, _) => text.replace('%', "%25"),
            (_, None) => text,
        };
    }
    text
}

fn is_open(answer: &str) -> bool {
    answer.starts_with("free") || answer == "unmatched"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// R1 against every upstream, under both policies, bare and pinned, below free catch-alls or not.
    #[test]
    fn r1_what_an_upstream_serves_from_a_paid_path_is_never_open(
        start in prop::sample::select(vec![
            "/api/paid/y", "/api/paid", "/u/v/x", "/free/api/paid/y", "/free/../api/paid", "/free/y",
        ]),
        disguises in prop::collection::vec(disguise(), 0..7),
        allow in any::<bool>(),
        catch_all in any::<bool>(),
    ) {
        let raw = disguised(start, disguises);
        let served: Vec<&str> = UPSTREAMS
            .iter()
            .filter(|(_, upstream)| upstream(&raw).is_some_and(|found| is_paid(&found)))
            .map(|(name, _)| *name)
            .collect();
        if !served.is_empty() {
            let unmatched = if allow { Unmatched::Allow } else { Unmatched::Deny };
            let mut world = World::new(unmatched);
            let mut routes = vec![free("/free/*"), paid("/api/paid/*"), route("/u/*/x", Gate::Paid, 7)];
            if catch_all {
                routes.extend([free("/*"), free("/api/*")]);
            }
            world.file(vec![named("n", "x", routes)]);
            for answer in [world.ask(&raw), world.ask_pin("n/x", &raw)] {
                prop_assert!(!is_open(&answer), "{raw} is {answer} and served by {served:?}");
            }
            // R4: the same of what was paid once.
            world.file(vec![named("n", "x", vec![free("/free/*"), free("/*")])]);
            for answer in [world.ask(&raw), world.ask_pin("n/x", &raw)] {
                prop_assert!(!is_open(&answer), "{raw} is {answer} after removal, served by {served:?}");
            }
        }
    }
}
