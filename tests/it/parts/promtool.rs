//! Prometheus' own opinion of a scrape.

use std::process::Stdio;

use tokio::{io::AsyncWriteExt, process::Command};

use super::require;

/// `promtool check metrics` on an exposition: what it complains about, parse errors and style alike.
pub(crate) async fn check_metrics(exposition: &str) -> Result<(), String> {
    require("promtool");
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start promtool: {error}"))?;
    let mut stdin = child.stdin.take().ok_or("promtool has no stdin")?;
    // Beside the reading: it may complain before it has read everything.
    let feed = async {
        stdin
            .write_all(exposition.as_bytes())
            .await
            .map_err(|error| error.to_string())?;
        drop(stdin);
        Ok::<(), String>(())
    };
    let (fed, output) = tokio::join!(feed, child.wait_with_output());
    let output = output.map_err(|error| error.to_string())?;
    let complaints = [output.stdout, output.stderr].concat();
    let complaints = String::from_utf8_lossy(&complaints);
    if output.status.success() && complaints.trim().is_empty() {
        return fed;
    }
    Err(format!("{}: {complaints}", output.status))
}
