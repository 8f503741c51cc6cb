//! Targets and patterns against tables of rows and a slow reference.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn views(path: &str) -> Vec<String> {
    Target::parse(path, None)
        .unwrap()
        .views()
        .into_iter()
        .map(Cow::into_owned)
        .collect()
}

#[test]
fn a_plain_target_has_one_view_and_no_copy() {
    for path in [
        "/",
        "/a",
        "/a/",
        "/a/b.c/..d/e..",
        "/café/x:y@z,(1)",
        "/a/...",
        "/.well-known/x",
    ] {
        let target = Target::parse(path, None).unwrap();
        assert!(target.is_plain(), "{path}");
        assert!(
            matches!(target.views()[..], [Cow::Borrowed(view)] if view == path),
            "{path}"
        );
        assert!(!target.hides_structure(), "{path}");
    }
}

#[test]
fn only_the_path_before_the_first_question_mark_has_views() {
    let target = Target::parse("/free?/../paid/%2e%2e#;\\?x=%", None).unwrap();
    assert_eq!(target.path(), "/free");
    assert!(target.is_plain());
    assert_eq!(target.raw(), "/free?/../paid/%2e%2e#;\\?x=%");
    assert_eq!(
        Target::parse("/free?a\nb", None).unwrap_err(),
        TargetError::Control
    );
}

#[test]
fn what_has_no_single_meaning_is_refused_by_kind() {
    let long = format!("/{}", "a".repeat(16 * 1024));
    let deep = "/a".repeat(257);
    let escaped = format!("/{}", "%2e".repeat(2049));
    let many = "/a;b%2fc;d%252fe//..;/%5c%255c%3b%253b%2e%2e/%252e%252e%3f;x\\..".repeat(3);
    for (raw, error) in [
        ("", TargetError::Form),
        ("paid/x", TargetError::Form),
        ("\\paid\\x", TargetError::Form),
        ("*", TargetError::Form),
        ("http:/paid/x", TargetError::Form),
        ("internal:80", TargetError::Form),
        ("ftp://h/paid", TargetError::Form),
        ("http://h/paid", TargetError::Authority),
        ("/free#/../paid/x", TargetError::Fragment),
        ("/paid/x HTTP/1.1\r\nX: y", TargetError::Control),
        ("/paid\tx", TargetError::Control),
        ("/paid/\u{7f}", TargetError::Control),
        ("/paid/%", TargetError::Escape),
        ("/paid/%4", TargetError::Escape),
        ("/paid/%zz", TargetError::Escape),
        ("/paid/%u002f", TargetError::Escape),
        ("/paid/%é", TargetError::Escape),
        ("/paid/x%00.png", TargetError::EncodedControl),
        ("/paid/x%2500.png", TargetError::EncodedControl),
        ("/paid/%0d%0aX", TargetError::EncodedControl),
        ("/pa%09id", TargetError::EncodedControl),
        ("/paid/%c0%af..", TargetError::Utf8),
        ("/paid/%25c0%25af..", TargetError::Utf8),
        ("/paid/%ff", TargetError::Utf8),
        ("/paid/%ed%a0%80", TargetError::Utf8),
        (&long, TargetError::Cost),
        (&deep, TargetError::Cost),
        (&escaped, TargetError::Cost),
        (&many, TargetError::Readings),
    ] {
        assert_eq!(Target::parse(raw, None).unwrap_err(), error, "{raw:?}");
    }
}

#[test]
fn an_absolute_form_counts_only_for_the_forwarded_host() {
    let parse = |raw| Target::parse(raw, Some("API.example.com:443"));
    assert_eq!(
        parse("http://api.example.com/paid?x").unwrap().path(),
        "/paid"
    );
    assert_eq!(
        parse("HTTPS://Api.Example.Com.:8443/paid").unwrap().path(),
        "/paid"
    );
    assert_eq!(parse("http://api.example.com").unwrap().path(), "/");
    assert_eq!(parse("http://api.example.com?x").unwrap().path(), "/");
    assert_eq!(
        parse("http://evil/paid").unwrap_err(),
        TargetError::Authority
    );
    assert_eq!(
        parse("http://u@api.example.com/paid").unwrap_err(),
        TargetError::Authority
    );
    assert_eq!(parse("http:///paid").unwrap_err(), TargetError::Authority);
    assert_eq!(
        parse("http://api.example.com\\paid").unwrap_err(),
        TargetError::Form
    );
    assert_eq!(
        parse("http://api.example.com#/paid").unwrap_err(),
        TargetError::Form
    );
}

#[test]
fn every_reading_of_a_hostile_path_is_a_view() {
    for (path, view) in [
        ("/free/../paid/x", "/paid/x"),
        ("/free/.%2e/paid/x", "/paid/x"),
        ("/free/..%5cpaid/x", "/paid/x"),
        ("/free/%252e%252e%252fpaid", "/paid"),
        ("/%2e/paid/x", "/paid/x"),
        ("///paid/x", "/paid/x"),
        ("/paid%2fx", "/paid/x"),
        ("/paid/x%3Bz", "/paid/x"),
        ("/free/..;/paid/x", "/paid/x"),
        ("/free/%2e%2e%3b/paid/x", "/paid/x"),
        ("/free/..;a=b;c/paid/x", "/paid/x"),
        ("/u/a%5Cb", "/u/a/b"),
        ("/../paid", "/paid"),
        ("/free//../paid", "/paid"),
        ("/free//../paid", "/free/paid"),
        ("/paid%3Fx", "/paid"),
        ("/paid%23x", "/paid"),
        ("/caf%C3%A9", "/café"),
        ("/paid/a/..", "/paid/"),
        ("/100%25", "/100%"),
        // Tomcat strips parameters before it decodes, so this `%2f` is never seen.
        ("/free/a;%2fb%2fc/%2e%2e/%2e%2e/p%61id", "/paid"),
        // `new URL` and Envoy: `%2e%2e` is a dot segment, `%2f` a letter.
        ("/free/x%2fy/%2e%2e/%2e%2e/paid", "/paid"),
        // Envoy resolves `%2e%2e` and leaves the rest to a server that decodes once and resolves.
        ("/a%252fb%255c%2f../x%2fy/%2e%2e/paid/y", "/paid/y"),
        // Go's ServeMux splits before it decodes.
        ("/%75/a%2fb/x", "/u/a%2fb/x"),
        // A proxy that resolves what is literal, then a server that decodes and resolves.
        ("/a/z/%2e%2e/../%2e%2e/b", "/a/b"),
        // `new URL(target, base)` takes what follows two slashes for a host.
        ("//free/paid/x", "/paid/x"),
        ("///free/paid/x", "/paid/x"),
        ("/\\free/paid/x", "/paid/x"),
        ("//free", "/"),
    ] {
        assert!(
            views(path).contains(&view.to_owned()),
            "{path}: {:?}",
            views(path)
        );
        assert_eq!(views(path)[0], path);
    }
    assert_eq!(views("/a%20b"), ["/a%20b", "/a b"]);
    assert_eq!(views("/a//b"), ["/a//b", "/a/b"]);
}

#[test]
fn the_class_names_the_most_telling_feature() {
    for (path, class, hides) in [
        ("/a%2fb;x", "encoded_slash", true),
        ("/a%252fb", "double_encoding", true),
        ("/a\\b", "backslash", true),
        ("/a%5cb", "backslash", true),
        ("/a/..", "dot_segment", true),
        ("/a/%2E./b", "dot_segment", true),
        ("/a/..;x/b", "dot_segment", true),
        ("/a;x", "parameter", false),
        ("/a//b", "double_slash", false),
        ("/caf%C3%A9", "encoding", false),
        ("/A", "case", false),
    ] {
        let target = Target::parse(path, None).unwrap();
        assert_eq!(
            (target.class().as_str(), target.hides_structure()),
            (class, hides),
            "{path}"
        );
    }
    assert_eq!(
        Target::parse("", None).unwrap_err().class().as_str(),
        "form"
    );
}

#[test]
fn patterns_match_whole_segments() {
    for (pattern, matching, others) in [
        (
            "/a",
            &["/a", "/a/"][..],
            &["/", "/ab", "/a/b", "/a//", "//a"][..],
        ),
        ("/a/", &["/a", "/a/"], &["/a/b"]),
        ("/", &["/"], &["/a", "//"]),
        ("/*", &["/", "/a", "/a/b", "//"], &[]),
        (
            "/a/*",
            &["/a", "/a/", "/a/b", "/a/b/c", "/a//b"],
            &["/ab", "/", "/b/a"],
        ),
        ("/a[1]/*", &["/a[1]", "/a[1]/b"], &["/a1"]),
        ("/caf%C3%A9", &["/café"], &["/caf%C3%A9"]),
        (
            "/a/b*",
            &["/a/b", "/a/bc", "/a/bc/"],
            &["/a", "/a/c", "/a/b/c"],
        ),
        (
            "/x-*/v1/*",
            &["/x-1/v1/a", "/x-1/v1/a/b", "/x-1/v1/"],
            &["/x-1/v1", "/x/v1/a", "/x-1/v2/a"],
        ),
        ("/*/x", &["/a/x", "/a/x/"], &["/x", "/a/b/x"]),
        ("/v[0-9]/*/y", &["/v1/a/y"], &["/va/a/y", "/v1/y"]),
        ("/a\\*/*", &["/a*/b"], &["/a\\*/b", "/ab/b"]),
        ("/%2A*", &["/*x"], &["/x"]),
    ] {
        let compiled = Pattern::parse(pattern).unwrap();
        for path in matching {
            assert!(compiled.matches(path), "{pattern} {path}");
        }
        for path in others {
            assert!(!compiled.matches(path), "{pattern} {path}");
        }
    }
}

#[test]
fn a_pattern_that_can_never_match_says_what_would_do() {
    for (text, words) in [
        ("", "write \"/\""),
        ("paid/*", "write \"/paid/*\""),
        ("/a?b", "\"?\""),
        ("/a#b", "\"#\""),
        ("/a b", "%20"),
        ("/a%", "%25"),
        ("/a%zz/*", "%25"),
        ("/a%ff", "%25"),
        ("/a%2fb", "separate segments"),
        ("/a%5c*/x", "separate segments"),
        ("/a%2541", "encode once"),
        ("/a//b", "single slash"),
        ("/a/../b", "dot segment \"..\""),
        ("/a/%2e", "dot segment"),
        ("/a\\b", "write \"/\""),
        ("/a*[/x", "malformed glob"),
        ("/a/**", "\"/*\""),
        ("/[z-a]*", "lower character first"),
    ] {
        let error = Pattern::parse(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn what_does_not_compile_still_has_a_literal_prefix() {
    for (text, prefix) in [
        ("/a/b/c*[", "/a/b"),
        ("/a*[/x", "/"),
        ("paid/*", "/paid"),
        ("/a/**", "/a"),
        ("/a/%zz", "/a"),
        ("/a//b", "/a"),
        ("/a/b?x", "/a"),
        ("", "/"),
    ] {
        assert_eq!(literal_prefix(text), prefix, "{text}");
    }
    assert_eq!(Pattern::parse("/a/b/*").unwrap().literal_prefix(), "/a/b");
    assert_eq!(Pattern::parse("/a/b*/c").unwrap().literal_prefix(), "/a");
    assert_eq!(Pattern::parse("/*").unwrap().literal_prefix(), "/");
}

#[test]
fn precedence_is_exact_then_prefix_then_literal_part() {
    let ordered = [
        "/a/b",
        "/a",
        "/a/bcd*/x/*",
        "/a/b*/x",
        "/a/b*",
        "/a/*",
        "/*-b/v1/*",
        "/*-b/*",
        "/*",
    ];
    for pair in ordered.windows(2) {
        let [first, second] =
            [pair[0], pair[1]].map(|text| Pattern::parse(text).unwrap().specificity());
        assert!(first > second, "{pair:?}: {first:?} {second:?}");
    }
}

/// The slow reference: closes a set of texts under every step in any order, decoding at most twice.
fn slow_views(path: &str) -> BTreeSet<String> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let mut texts = BTreeSet::from([(0, path.to_owned())]);
    for start in [path.to_owned(), path.replace('\\', "/")] {
        // `new URL`: two slashes or more, an authority, the path.
        if start.starts_with("//") {
            let authority = start.trim_start_matches('/');
            let path = authority.split_once('/').map_or("", |(_, path)| path);
            texts.insert((0, format!("/{path}")));
        }
    }
    loop {
        let mut next = texts.clone();
        for (decoded, text) in &texts {
            let mut add = |text| next.insert((*decoded, text));
            add(text.replace('\\', "/"));
            add(text.split(['?', '#']).next().unwrap().to_owned());
            add(text
                .split('/')
                .map(|s| s.split(';').next().unwrap())
                .collect::<Vec<_>>()
                .join("/"));
            let mut merged = text.clone();
            while merged.contains("//") {
                merged = merged.replace("//", "/");
            }
            add(merged);
            add(slow_dots(text));
            let dotted = text.split('/').map(|segment| {
                let plain = segment.to_ascii_lowercase().replace("%2e", ".");
                if matches!(&*plain, "." | "..") {
                    plain
                } else {
                    segment.to_owned()
                }
            });
            add(slow_dots(&dotted.collect::<Vec<_>>().join("/")));
            if *decoded < 2 {
                next.insert((decoded + 1, decode(text)));
                let mut pieces = Vec::new();
                for lower in text.split("%2f") {
                    pieces.push(
                        lower
                            .split("%2F")
                            .map(decode)
                            .collect::<Vec<_>>()
                            .join("%2F"),
                    );
                }
                next.insert((decoded + 1, pieces.join("%2f")));
            }
        }
        if next == texts {
            return texts.into_iter().map(|(_, text)| text).collect();
        }
        texts = next;
    }
}

/// RFC 3986 5.2.4, rule by rule.
fn slow_dots(path: &str) -> String {
    let (mut input, mut output) = (path.to_owned(), String::new());
    while !input.is_empty() {
        if let Some(rest) = input.strip_prefix("/./") {
            input = format!("/{rest}");
        } else if input == "/." {
            input = "/".to_owned();
        } else if input == "/.." || input.starts_with("/../") {
            input = if input == "/.." {
                "/".to_owned()
            } else {
                input.split_off(3)
            };
            output.truncate(output.rfind('/').unwrap_or(0));
        } else {
            let end = input
                .match_indices('/')
                .nth(1)
                .map_or(input.len(), |(at, _)| at);
            let rest = input.split_off(end);
            output.push_str(&input);
            input = rest;
        }
    }
    output
}

/// Texts made of what confuses parsers.
fn hostile() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("/"),
        Just("//"),
        Just("."),
        Just(".."),
        Just("%2e"),
        Just("%2F"),
        Just("%252f"),
        Just("%5c"),
        Just("\\"),
        Just(";"),
        Just("%3b"),
        Just("%3F"),
        Just("#"),
        Just("a"),
        Just("paid"),
        Just("PAID"),
        Just("%25"),
        Just("%"),
        Just("é"),
        Just("%c3%a9"),
        Just("%c0"),
        Just("?"),
        Just("%00"),
        Just("%2500"),
        Just("%252e"),
        Just("*"),
        Just("["),
        Just("[a-z]"),
    ];
    prop::collection::vec(part, 0..14).prop_map(|parts| format!("/{}", parts.concat()))
}

proptest! {
    #[test]
    fn what_the_quick_look_passes_has_nothing_for_the_close_one(
        text in "/[-a/.;%#\\\\2fF]{0,12}", times in 1..60_usize,
    ) {
        let path = text.repeat(times);
        if is_featureless(&path) {
            prop_assert_eq!(scan_closely(&path), Ok(Features::default()));
        }
    }

    #[test]
    fn no_text_panics_and_views_are_bounded(text in any::<String>(), authority in any::<Option<String>>()) {
        if let Ok(target) = Target::parse(&text, authority.as_deref()) {
            prop_assert!(target.views().len() <= MAX_VIEWS);
        }
        drop(Pattern::parse(&text));
        prop_assert!(literal_prefix(&text).starts_with('/'));
        drop(normalize_host(&text));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(text) = std::str::from_utf8(&bytes)
            && let Ok(target) = Target::parse(text, Some("h"))
        {
            prop_assert!(!target.views().is_empty());
        }
    }

    #[test]
    fn views_start_with_a_slash_are_distinct_and_are_the_slow_closure(text in hostile()) {
        if let Ok(target) = Target::parse(&text, None) {
            let views = target.views();
            prop_assert_eq!(&views[0], target.path());
            prop_assert!(views.len() <= MAX_VIEWS);
            prop_assert!(views.iter().all(|view| view.starts_with('/')));
            let distinct: BTreeSet<String> = views.iter().map(|view| view.to_string()).collect();
            prop_assert_eq!(distinct.len(), views.len());
            let closure = slow_views(target.path());
            prop_assert_eq!(&distinct, &closure);
            prop_assert_eq!(target.is_plain(), closure.len() == 1 && !target.path().contains('%'));
        }
    }

    #[test]
    fn a_pattern_and_its_prefix_agree(text in hostile()) {
        if let Ok(pattern) = Pattern::parse(&text) {
            let prefix = pattern.literal_prefix();
            prop_assert!(prefix.starts_with('/'));
            if pattern.tail() == Tail::Subtree && pattern.segments().iter().all(|s| matches!(s, Segment::Literal(_))) {
                prop_assert!(pattern.matches(&prefix));
            }
        }
    }
}
