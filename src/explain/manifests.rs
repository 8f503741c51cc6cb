//! Manifests of offers as a source beside the pricing file: what the cluster would make of them.
//!
//! They are translated by the code that translates the cluster's objects. A document that cannot be
//! read is an error with its file and number; a document of another kind is a note.

use super::Problem;
use crate::crd::{self, Content, Manifest, Offer, ServiceOffer, TranslateOptions};
use crate::pricing::Settings;
use crate::table::RouteReport;
use anyhow::{Context, bail};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The source whose part the manifests play.
pub(super) const SOURCE: &str = "kube";
/// Largest file.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Everything that the files of `--offer` say.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    /// The offers, in the order of the files.
    pub(super) offers: Vec<Arc<Offer>>,
    /// Documents that are no offers, and what only the cluster knows.
    pub(super) notices: Vec<Problem>,
    /// Where each offer was written.
    pub(super) places: Places,
}

/// Where offers were written: file, document and line by namespace and name.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<(String, String), Place>);

#[derive(Debug, Clone)]
struct Place {
    file: String,
    document: usize,
    line: usize,
}

impl Manifests {
    /// Reads files, and the `.yaml`, `.yml` and `.json` files of folders.
    pub(super) fn load(
        paths: &[PathBuf],
        settings: &Settings,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let mut manifests = Self::default();
        let hosts = settings.path_owners.iter();
        let options = TranslateOptions {
            bound_hosts: hosts.filter_map(|entry| entry.host.clone()).collect(),
            ..TranslateOptions::default()
        };
        for path in files(paths)? {
            let size = std::fs::metadata(&path).map(|metadata| metadata.len());
            let file = path.display().to_string();
            if size.with_context(|| format!("{file} cannot be read"))? > MAX_BYTES {
                bail!("{file} has more than {MAX_BYTES} bytes");
            }
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("{file} cannot be read"))?;
            for Manifest {
                document,
                line,
                content,
            } in crd::manifests(&text)
            {
                let place = Place {
                    file: file.clone(),
                    document,
                    line,
                };
                match content {
                    Content::Offer(object) => manifests.add(&object, place, &options, now),
                    Content::Other(kind) => {
                        let message = format!("document {document} is skipped: it is {kind}");
                        manifests
                            .notices
                            .push(place.problem("note", "skipped", message));
                    }
                    Content::Unreadable(why) => {
                        let message = format!("document {document} cannot be read: {why}");
                        manifests
                            .notices
                            .push(place.problem("error", "unreadable", message));
                    }
                }
            }
        }
        Ok(manifests)
    }

    fn add(
        &mut self,
        object: &ServiceOffer,
        place: Place,
        options: &TranslateOptions,
        now: Timestamp,
    ) {
        let translated = crd::translate(object, options, now);
        let mut offer = translated.offer;
        if object.metadata.creation_timestamp.is_none() {
            // Nobody knows the age of a manifest: what is named first counts as older (O1).
            let age = i64::try_from(self.offers.len()).unwrap_or(i64::MAX);
            let later = now.checked_add(SignedDuration::from_nanos(age));
            Arc::make_mut(&mut offer.identity).created = Some(later.unwrap_or(now));
        }
        if let Some(secret) = translated.upstream_secret {
            let message = format!(
                "the offer needs the Secret {:?} of its namespace, which only the cluster knows",
                &*secret
            );
            self.notices
                .push(place.problem("note", "upstream_secret", message));
        }
        let key = (offer.namespace.to_string(), offer.name.to_string());
        if let Some(first) = self.places.0.get(&key) {
            let message = format!(
                "document {} is the offer {}/{} again, which {}:{} declares: give it another name",
                place.document, key.0, key.1, first.file, first.line
            );
            self.notices
                .push(place.problem("error", "duplicate_offer", message));
            return;
        }
        self.places.0.insert(key, place);
        self.offers.push(Arc::new(offer));
    }
}

impl Places {
    /// What the table says about a route, at the document that declares its offer.
    pub(super) fn problem(
        &self,
        row: &RouteReport,
        reason: &str,
        severity: &'static str,
    ) -> Option<Problem> {
        let (namespace, name) = (row.offer.namespace.to_string(), row.offer.name.to_string());
        let path = format!("{namespace}/{name} {}", row.pattern);
        let place = self.0.get(&(namespace, name))?;
        let detail = row.detail.as_deref().unwrap_or(reason);
        let mut problem = place.problem(severity, reason, detail.to_owned());
        problem.path = path;
        Some(problem)
    }
}

impl Place {
    fn problem(&self, severity: &'static str, code: &str, message: String) -> Problem {
        Problem {
            severity,
            code: code.to_owned(),
            file: self.file.clone(),
            line: self.line,
            column: 1,
            path: String::new(),
            message,
            hint: None,
        }
    }
}

fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path)
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let mut found: Vec<PathBuf> = entries
            .into_iter()
            .map(|entry| entry.path())
            .filter(|path| path.is_file() && is_manifest(path))
            .collect();
        if found.is_empty() {
            bail!("{} holds no .yaml, .yml or .json file", path.display());
        }
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}
