//! Files whose content is secret: the facilitator's headers and the secret path segment (M11).
//!
//! What is wrong with them is said without repeating any of their content, not even a key of a
//! header file that might be a value in the wrong place (R13); so problems are named by line.

use super::FacilitatorSettings;
use super::tree::{self, Node, Value};
use http::header::{HeaderName, HeaderValue};
use secrecy::SecretString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest secret file.
const MAX_BYTES: u64 = 64 * 1024;
/// Most headers for one operation.
const MAX_HEADERS: usize = 32;
/// What the client itself decides about a request.
const OURS: [&str; 9] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "accept-encoding",
    "te",
    "upgrade",
    "expect",
];

/// Why a secret file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretError {
    /// It cannot be read.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is too large to be what it should be.
    #[error("{path} has more than {MAX_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is no text.
    #[error("{path} is not UTF-8 text")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// It is no path segment.
    #[error(
        "{path} holds no usable path segment: write 16 to 128 letters, digits, \"-\" or \"_\" on \
         one line"
    )]
    Segment {
        /// The file.
        path: PathBuf,
    },
}

/// What was made of a header file.
#[derive(Debug)]
pub(super) struct HeadersFile {
    /// The headers; `None` unless there is no error.
    pub(super) settings: Option<FacilitatorSettings>,
    /// Everything wrong with it.
    pub(super) errors: Vec<String>,
}

/// The secret path segment in a file, surrounding whitespace aside.
pub(super) fn path_segment(path: &Path) -> Result<SecretString, SecretError> {
    let text = text(path)?;
    let segment = text.trim();
    let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if (16..=128).contains(&segment.len()) && segment.bytes().all(letters) {
        Ok(SecretString::from(segment))
    } else {
        Err(SecretError::Segment {
            path: path.to_owned(),
        })
    }
}

/// The headers in a YAML or JSON file: one mapping for all operations, or one for each.
pub(super) fn headers(path: &Path) -> HeadersFile {
    let mut errors = Vec::new();
    let settings = match text(path) {
        Ok(text) => read_headers(path, &text, &mut errors),
        Err(error) => {
            errors.push(error.to_string());
            None
        }
    };
    HeadersFile {
        settings: settings.filter(|_| errors.is_empty()),
        errors,
    }
}

fn text(path: &Path) -> Result<String, SecretError> {
    let failed = |source| SecretError::Read {
        path: path.to_owned(),
        source,
    };
    // Asked before opening: opening a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(std::io::Error::other("not a regular file")));
    }
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(SecretError::TooLarge {
            path: path.to_owned(),
        });
    }
    String::from_utf8(bytes).map_err(|_secret_bytes| SecretError::NotText {
        path: path.to_owned(),
    })
}

fn read_headers(path: &Path, text: &str, errors: &mut Vec<String>) -> Option<FacilitatorSettings> {
    let name = path.display();
    let root = match tree::parse(text) {
        Ok(tree) => tree.root,
        Err(flaw) => {
            let (line, code) = (flaw.at.line, flaw.code);
            errors.push(format!(
                "{name} line {line}: not valid YAML or JSON ({code})"
            ));
            return None;
        }
    };
    let Value::Map(entries) = &root.value else {
        errors.push(format!("{name}: write a mapping of header names to values"));
        return None;
    };
    let nested = entries
        .iter()
        .any(|entry| matches!(entry.node.value, Value::Map(_)));
    if !nested {
        let headers = mapping(path, &root, errors);
        return Some(FacilitatorSettings {
            verify_headers: headers.clone(),
            settle_headers: headers.clone(),
            supported_headers: headers,
        });
    }
    let mut settings = FacilitatorSettings::default();
    for entry in entries {
        if entry.first.is_some() {
            let line = entry.at.line;
            errors.push(format!("{name} line {line}: an operation is written twice"));
        }
        let headers = mapping(path, &entry.node, errors);
        match &*entry.key {
            "verify" => settings.verify_headers = headers,
            "settle" => settings.settle_headers = headers,
            "supported" => settings.supported_headers = headers,
            _ => errors.push(format!(
                "{name} line {}: operations are verify, settle and supported",
                entry.at.line
            )),
        }
    }
    Some(settings)
}

fn mapping(path: &Path, node: &Node<'_>, errors: &mut Vec<String>) -> Vec<(String, SecretString)> {
    let name = path.display();
    let Value::Map(entries) = &node.value else {
        let line = node.at.line;
        errors.push(format!(
            "{name} line {line}: write a mapping of header names to values"
        ));
        return Vec::new();
    };
    if entries.len() > MAX_HEADERS {
        errors.push(format!("{name}: more than {MAX_HEADERS} headers"));
        return Vec::new();
    }
    let mut headers: Vec<(String, SecretString)> = Vec::new();
    for entry in entries {
        let line = entry.at.line;
        let Ok(header) = HeaderName::from_bytes(entry.key.as_bytes()) else {
            errors.push(format!("{name} line {line}: not the name of a header"));
            continue;
        };
        if OURS.contains(&header.as_str()) {
            errors.push(format!(
                "{name} line {line}: {header} is decided by the client, remove it"
            ));
        } else if headers.iter().any(|(known, _)| known == header.as_str()) {
            errors.push(format!("{name} line {line}: {header} is written twice"));
        } else if let Value::Text(value) = &entry.node.value
            && !value.is_empty()
            && HeaderValue::from_str(value).is_ok()
        {
            headers.push((header.as_str().to_owned(), SecretString::from(&**value)));
        } else {
            errors.push(format!(
                "{name} line {line}: the value of {header} is not one line of visible ASCII"
            ));
        }
    }
    headers
}
