//! Whom a facilitator's certificate must be signed by: the system's roots, and one extra bundle.
//!
//! The extra bundle is read at start, because a bad flag is a reason not to start. The system's
//! roots are read when the first https facilitator is called, because an installation that calls
//! none must not need them. `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the system's roots
//! (rustls-native-certs). Failing to find any root is retried at the next call.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::OnceCell;

/// Why the client cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The extra CA bundle cannot be read.
    #[error("cannot read the CA bundle {}: name a readable PEM file in --ca-file", path.display())]
    UnreadableCa {
        /// As configured.
        path: PathBuf,
        /// Cause.
        #[source]
        source: pem::Error,
    },
    /// The extra CA bundle holds no certificate.
    #[error("the CA bundle {} holds no PEM certificate", path.display())]
    EmptyCa {
        /// As configured.
        path: PathBuf,
    },
    /// A certificate of the extra CA bundle cannot be an authority.
    #[error("certificate {position} of the CA bundle {} cannot be used", path.display())]
    BadCa {
        /// As configured.
        path: PathBuf,
        /// Which one, from 1.
        position: usize,
        /// Cause.
        #[source]
        source: rustls::Error,
    },
}

/// Why no https facilitator can be called.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// Neither system roots nor an extra bundle.
    #[error("no CA certificates on this system: install ca-certificates or set --ca-file")]
    NoRoots,
    /// The provider cannot do what is asked of it, or the loading task died.
    #[error("TLS cannot be set up")]
    SetUp,
}

/// The TLS configuration, made once it is needed.
#[derive(Debug)]
pub(super) struct Tls {
    extra: Vec<CertificateDer<'static>>,
    config: OnceCell<ClientConfig>,
    warned: AtomicBool,
}

impl Tls {
    /// Reads and checks the extra bundle.
    pub(super) fn new(extra_ca: Option<&Path>) -> Result<Self, ClientError> {
        let extra = extra_ca.map(read_bundle).transpose()?.unwrap_or_default();
        Ok(Self {
            extra,
            config: OnceCell::new(),
            warned: AtomicBool::new(false),
        })
    }

    /// The configuration; a clone shares session tickets and verifier.
    pub(super) async fn config(&self) -> Result<ClientConfig, TlsError> {
        let config = self.config.get_or_try_init(|| async {
            let extra = self.extra.clone();
            match tokio::task::spawn_blocking(move || load(extra)).await {
                Ok(loaded) => loaded,
                Err(_panicked) => Err(TlsError::SetUp),
            }
        });
        let config = config.await.cloned();
        if let Err(error) = &config
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "facilitators cannot be called over https");
        }
        config
    }
}

fn load(extra: Vec<CertificateDer<'static>>) -> Result<ClientConfig, TlsError> {
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "some system CA certificates cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system.certs.into_iter().chain(extra));
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_unsupported| TlsError::SetUp)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn read_bundle(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let unreadable = |source| ClientError::UnreadableCa {
        path: path.to_owned(),
        source,
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if certificates.is_empty() {
        return Err(ClientError::EmptyCa {
            path: path.to_owned(),
        });
    }
    let mut trial = RootCertStore::empty();
    for (index, certificate) in certificates.iter().enumerate() {
        trial
            .add(certificate.clone())
            .map_err(|source| ClientError::BadCa {
                path: path.to_owned(),
                position: index + 1,
                source,
            })?;
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_bundle_that_is_missing_empty_or_broken_is_refused_by_name_at_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        assert!(matches!(
            Tls::new(Some(&file)),
            Err(ClientError::UnreadableCa { .. })
        ));
        std::fs::write(&file, "no certificate here\n").unwrap();
        assert!(matches!(
            Tls::new(Some(&file)),
            Err(ClientError::EmptyCa { .. })
        ));
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&file, pem).unwrap();
        let error = Tls::new(Some(&file)).unwrap_err();
        assert!(matches!(error, ClientError::BadCa { position: 1, .. }));
        assert!(error.to_string().contains("ca.pem"), "{error}");
    }
}
