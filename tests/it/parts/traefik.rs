//! Traefik as operators run it: a static configuration of ours, a dynamic one of the test's.

use std::{
    fmt::Arguments,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{
    control_plane::{ADMIN_TOKEN, ControlPlane, authority},
    free_port, http,
    process::{Process, scratch_dir, supervised},
    require,
};

/// A running Traefik.
///
/// The dynamic configuration is a file provider's; entry points are known to it by the names given at start.
#[derive(Debug)]
pub(crate) struct Traefik {
    process: Process,
    entrypoints: Vec<(String, u16)>,
    admin: u16,
    dynamic: PathBuf,
    generation: u64,
}

impl Traefik {
    /// With one entry point, `web`, and no options.
    pub(crate) async fn start(dynamic: &str) -> Self {
        Self::start_with(dynamic, &[("web", "")]).await
    }

    /// With entry points as `(name, options)`; options are Traefik's for one, in YAML flow style, without the outer
    /// braces and `address`, as `http: {sanitizePath: false}` or `forwardedHeaders: {insecure: true}`.
    pub(crate) async fn start_with(dynamic: &str, entrypoints: &[(&str, &str)]) -> Self {
        Self::start_beside(dynamic, entrypoints, "").await
    }

    /// As [`Traefik::start_with`], beside the file also reading the `IngressRoute`s of a namespace of this API server.
    pub(crate) async fn start_in_cluster(
        control: &ControlPlane,
        namespace: &str,
        entrypoints: &[(&str, &str)],
    ) -> Self {
        // A Service outside of the cluster is an ExternalName: no node runs here.
        let provider = json!({
            "endpoint": format!("https://{}", control.address()),
            "token": ADMIN_TOKEN,
            "certAuthFilePath": authority(),
            "namespaces": [namespace],
            "allowExternalNameServices": true,
            "safeNaming": true,
        });
        let provider = format!("kubernetesCRD: {provider}, ");
        Self::start_beside("# Nothing.\n", entrypoints, &provider).await
    }

    /// `providers`: further ones, each followed by a comma.
    async fn start_beside(dynamic: &str, entrypoints: &[(&str, &str)], providers: &str) -> Self {
        let bin = require("traefik").join("bin/traefik");
        let dir = scratch_dir("traefik");
        let admin = free_port();
        let named: Vec<(String, u16)> = entrypoints
            .iter()
            .map(|(name, _)| ((*name).to_owned(), free_port()))
            .collect();

        let mut yaml = String::from("entryPoints:\n");
        line(
            &mut yaml,
            format_args!("  admin: {{address: \"127.0.0.1:{admin}\"}}"),
        );
        for ((name, port), (_, options)) in named.iter().zip(entrypoints) {
            let address = format!("127.0.0.1:{port}");
            line(
                &mut yaml,
                format_args!("  {name}: {{address: \"{address}\", {options}}}"),
            );
        }
        yaml.push_str(STATIC);
        let dynamic_dir = dir.path().join("dynamic");
        line(
            &mut yaml,
            format_args!(
                "providers: {{providersThrottleDuration: 50ms, {providers}file: {{directory: \"{}\", watch: true}}}}",
                dynamic_dir.display()
            ),
        );
        write(&dir.path().join("traefik.yml"), &yaml);
        if let Err(error) = std::fs::create_dir(&dynamic_dir) {
            panic!("cannot make {}: {error}", dynamic_dir.display());
        }

        let mut command = supervised(bin);
        command
            .arg("--configFile=traefik.yml")
            .current_dir(dir.path());
        let mut traefik = Self {
            process: Process::start_in("traefik", command, dir),
            entrypoints: named,
            admin,
            dynamic: dynamic_dir,
            generation: 0,
        };
        traefik.rewrite(dynamic).await;
        traefik
    }

    /// Replaces the dynamic configuration and returns when it is live.
    ///
    /// # Panics
    /// When Traefik does not take it within a minute: its log says why.
    pub(crate) async fn rewrite(&mut self, dynamic: &str) {
        // A router of ours beside the test's, new each time: once it answers, what was written with it is live too.
        self.generation += 1;
        let path = format!("/generation/{}", self.generation);
        let marker = format!(
            "http: {{routers: {{generation: {{rule: \"Path(`{path}`)\", entryPoints: [admin], service: ping@internal}}}}}}\n"
        );
        write(&self.dynamic.join("test.yml"), dynamic);
        write(&self.dynamic.join("zz-generation.yml"), &marker);
        let probe = format!("http://127.0.0.1:{}{path}", self.admin);
        self.process
            .wait_until("Traefik to take its dynamic configuration", |_| {
                let probe = probe.clone();
                async move {
                    http::get(&probe)
                        .await
                        .is_ok_and(|answer| answer.status == 200)
                }
            })
            .await;
    }

    /// `http://127.0.0.1:PORT` of an entry point.
    pub(crate) fn url(&self, entrypoint: &str) -> String {
        format!("http://127.0.0.1:{}", self.port(entrypoint))
    }

    /// The port of an entry point, for raw sockets.
    pub(crate) fn port(&self, entrypoint: &str) -> u16 {
        match self.entrypoints.iter().find(|(name, _)| name == entrypoint) {
            Some((_, port)) => *port,
            None => panic!("Traefik was started without an entry point {entrypoint}"),
        }
    }

    /// Its own metrics, as text.
    pub(crate) async fn metrics(&self) -> String {
        match http::get(&format!("http://127.0.0.1:{}/metrics", self.admin)).await {
            Ok(answer) => answer.text(),
            Err(error) => panic!("Traefik's metrics: {error}"),
        }
    }

    /// Its log and the path of its access log (JSON lines) beside it.
    pub(crate) fn log(&self) -> (String, PathBuf) {
        (self.process.log(), self.process.dir().join("access.log"))
    }
}

/// What every Traefik of ours has; nothing calls home.
const STATIC: &str = "\
global: {checkNewVersion: false, sendAnonymousUsage: false}
log: {level: INFO}
accessLog: {filePath: access.log, format: json}
ping: {entryPoint: admin}
metrics: {prometheus: {entryPoint: admin, addEntryPointsLabels: true, addRoutersLabels: true, addServicesLabels: true}}
";

fn line(yaml: &mut String, arguments: Arguments<'_>) {
    yaml.push_str(&arguments.to_string());
    yaml.push('\n');
}

fn write(path: &Path, text: &str) {
    if let Err(error) = std::fs::write(path, text) {
        panic!("cannot write {}: {error}", path.display());
    }
}
