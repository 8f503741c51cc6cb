//! The oldest Kubernetes that is documented is the oldest that is tested.
//!
//! The API server can pretend to be an older one (`--emulated-version`): what came later is switched off.
//! `test.sh` runs this folder's tests once more so, by [`EMULATED_VERSION`]; here is proven that this variable
//! arrives, and that page and rig mean the same version.

use serde_json::Value;

use crate::{
    docs::read,
    parts::control_plane::{ControlPlane, EMULATED_VERSION, OLDEST_EMULATED},
};

#[test]
fn the_documented_minimum_is_the_oldest_version_that_is_tested() {
    let page = read("docs/operating.md");
    for text in [
        format!("Kubernetes {OLDEST_EMULATED} or later"),
        format!("--emulated-version={OLDEST_EMULATED}"),
    ] {
        assert!(page.contains(&text), "{text}");
    }
}

#[tokio::test]
async fn the_version_that_the_environment_asks_for_is_the_one_that_is_emulated() {
    let control = ControlPlane::shared().await;
    let version = control.cluster().get_raw("/version").await.unwrap();
    let version: Value = serde_json::from_str(&version).unwrap();
    let text = |name: &str| version[name].as_str().unwrap_or_default();
    let is = |major: &str, minor: &str| format!("{}.{}", text(major), text(minor));
    let wanted = std::env::var(EMULATED_VERSION).unwrap_or_default();
    if wanted.is_empty() {
        assert_eq!(is("emulationMajor", "emulationMinor"), is("major", "minor"));
    } else {
        assert_eq!(is("emulationMajor", "emulationMinor"), wanted);
    }
}
