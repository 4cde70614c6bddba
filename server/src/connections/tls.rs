//! The server's certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::settings::Settings;

/// Why connections cannot be TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate without a key, or a key without a certificate.
    #[error("--{given} is given and --{missing} is not: TLS needs both")]
    Half {
        /// The flag that is there.
        given: &'static str,
        /// The flag that is not.
        missing: &'static str,
    },
    /// A file cannot be read.
    #[error("{} cannot be read (--{flag})", path.display())]
    Unreadable {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} has no {expected} in PEM form (--{flag}): {reason}", path.display())]
    Pem {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
        /// What was found.
        reason: String,
    },
    /// The certificate cannot be used, or not with this key.
    #[error("the certificate {} cannot be used with the key {}", cert.display(), key.display())]
    Unusable {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What the library says.
        source: rustls::Error,
    },
}

const CERT: &str = "tls-cert";
const KEY: &str = "tls-key";

/// What makes connections TLS, where the settings ask for it: HTTP/1.1 over TLS 1.2 or 1.3, without client certificates.
///
/// # Errors
/// [`TlsError`], which names the file.
pub fn acceptor(settings: &Settings) -> Result<Option<TlsAcceptor>, TlsError> {
    let (cert, key) = match (&settings.tls_cert, &settings.tls_key) {
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(TlsError::Half { given: CERT, missing: KEY }),
        (None, Some(_)) => return Err(TlsError::Half { given: KEY, missing: CERT }),
        (Some(cert), Some(key)) => (cert, key),
    };
    let chain = read_chain(cert)?;
    let secret = read_key(key)?;
    let unusable = |source| TlsError::Unusable { cert: cert.clone(), key: key.clone(), source };
    // The provider is named: another one in the tree must not make the choice ambiguous.
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { flag, path: path.to_owned(), source })
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(CERT, path)?;
    let not_pem =
        |reason: String| TlsError::Pem { flag: CERT, path: path.to_owned(), expected: "certificate", reason };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, pem::Error>>()
        .map_err(|error| not_pem(error.to_string()))?;
    if chain.is_empty() {
        return Err(not_pem("no section `BEGIN CERTIFICATE`".into()));
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(KEY, path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| TlsError::Pem {
        flag: KEY,
        path: path.to_owned(),
        expected: "private key",
        reason: match error {
            pem::Error::NoItemsFound => "no section `BEGIN PRIVATE KEY`".into(),
            other => other.to_string(),
        },
    })
}
