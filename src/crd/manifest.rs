//! Manifests, as a seller keeps them: several documents in a file, of any kind.
//!
//! Only for offline answers (`check`, `explain`). The cluster's objects come through the API server,
//! which reads YAML itself; what is read here goes the same way from then on.

use super::{GROUP, KIND, ServiceOffer};
use serde_json::Value;

/// One document of a file, or one item of a list in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Number of the document in its file, from 1.
    pub document: usize,
    /// 1-based line where the document begins.
    pub line: usize,
    /// What it is.
    pub content: Content,
}

/// What a document is.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// An offer.
    Offer(Box<ServiceOffer>),
    /// Another kind, by its name.
    Other(String),
    /// Not YAML, or no object; the reason.
    Unreadable(String),
}

/// Reads the documents of a file. Empty documents are left out; an offer without a namespace is
/// of the namespace `default`, as it would be for kubectl.
#[must_use]
pub fn manifests(text: &str) -> Vec<Manifest> {
    let mut found = Vec::new();
    for (index, (line, text)) in documents(text).into_iter().enumerate() {
        let document = index + 1;
        let mut push = |content| {
            found.push(Manifest {
                document,
                line,
                content,
            });
        };
        match serde_saphyr::from_str::<Value>(&text) {
            Ok(Value::Null) => {}
            Ok(Value::Object(mut object)) => match object.get_mut("items").map(Value::take) {
                Some(Value::Array(items)) => items.into_iter().map(content).for_each(push),
                Some(_) | None => push(content(Value::Object(object))),
            },
            Ok(_) => push(Content::Unreadable("it is no object".to_owned())),
            Err(error) => push(Content::Unreadable(unreadable(&error, line))),
        }
    }
    found
}

/// What is wrong with a document that begins at a line of its file, in one line.
fn unreadable(error: &serde_saphyr::Error, line: usize) -> String {
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or_default();
    match error.location() {
        Some(at) => {
            let place = format!(" at line {}, column {}", at.line(), at.column());
            let text = text.replace(&place, "");
            let below = usize::try_from(at.line()).unwrap_or(1);
            format!(
                "it is not YAML: line {}: {text}",
                (line + below).saturating_sub(1)
            )
        }
        None => format!("it is not YAML: {text}"),
    }
}

fn content(object: Value) -> Content {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let group = text("apiVersion").split('/').next().unwrap_or_default();
    if (group, text("kind")) != (GROUP, KIND) {
        return Content::Other(match text("kind") {
            "" => "no kind".to_owned(),
            kind => kind.to_owned(),
        });
    }
    let mut offer = ServiceOffer::from_json(object);
    let namespace = &mut offer.metadata.namespace;
    if namespace.as_deref().is_none_or(str::is_empty) {
        *namespace = Some("default".to_owned());
    }
    Content::Offer(Box::new(offer))
}

/// The documents of a text and the lines where they begin. They are split before they are parsed,
/// so that one that is not YAML spoils no other.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            documents.push((index + 2, String::new()));
        } else if let Some((_, document)) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let comment = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    documents.retain(|(_, text)| !text.lines().all(comment));
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_document_spoils_no_other() {
        let text = "# offers\n---\napiVersion: obol.org/v1alpha1\nkind: ServiceOffer\n\
                    metadata: {name: a}\n---\n{broken\n---\nkind: ConfigMap\n---\n- list\n---\n\
                    kind: List\nitems:\n- {apiVersion: obol.org/v1alpha1, kind: ServiceOffer, \
                    metadata: {name: b, namespace: shop}}\n- {kind: Secret}\n";
        let found: Vec<_> = manifests(text)
            .into_iter()
            .map(|manifest| {
                let what = match manifest.content {
                    Content::Offer(offer) => {
                        let metadata = offer.metadata;
                        format!("{}/{}", metadata.namespace.unwrap(), metadata.name.unwrap())
                    }
                    Content::Other(kind) => kind,
                    Content::Unreadable(_) => "unreadable".to_owned(),
                };
                (manifest.document, manifest.line, what)
            })
            .collect();
        let found: Vec<_> = found.iter().map(|(d, l, w)| (*d, *l, &**w)).collect();
        assert_eq!(
            found,
            [
                (1, 3, "default/a"),
                (2, 7, "unreadable"),
                (3, 9, "ConfigMap"),
                (4, 11, "unreadable"),
                (5, 13, "shop/b"),
                (5, 13, "Secret"),
            ]
        );
    }

    #[test]
    fn json_is_read_too_and_nothing_is_nothing() {
        let json = r#"{"apiVersion": "obol.org/v1alpha1", "kind": "ServiceOffer"}"#;
        assert!(matches!(manifests(json)[0].content, Content::Offer(_)));
        assert_eq!(manifests("# nothing\n---\n\n"), []);
    }
}
