//! TLS with a certificate made here.

use std::path::Path;
use std::sync::Arc;

use polylora_server::connections::{Late, tls};
use polylora_server::settings::Settings;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::fake_engine::FakeEngine;
use crate::running::{Running, patient, to_end};

struct Certificate {
    folder: TempDir,
    der: CertificateDer<'static>,
}

impl Certificate {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("cert.pem"), cert.pem()).expect("written");
        std::fs::write(folder.path().join("key.pem"), signing_key.serialize_pem()).expect("written");
        Self { der: cert.der().clone(), folder }
    }

    fn settings(&self) -> Settings {
        settings(&self.folder.path().join("cert.pem"), &self.folder.path().join("key.pem"))
    }

    fn trusting(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }
}

fn settings(cert: &Path, key: &Path) -> Settings {
    Settings { tls_cert: Some(cert.into()), tls_key: Some(key.into()), ..Settings::default() }
}

fn refused(cert: &Path, key: &Path) -> String {
    tls::acceptor(&settings(cert, key)).err().expect("refused").to_string()
}

#[tokio::test]
async fn a_client_that_trusts_the_certificate_is_served() {
    let certificate = Certificate::new();
    let running = Running::start(FakeEngine::default(), certificate.settings()).await;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream =
        certificate.trusting().connect(name, running.connect().await).await.expect("a handshake");
    let request = "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.expect("closed in good order");
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with(r#"{"status":"ok"}"#), "{reply}");
}

#[tokio::test]
async fn a_client_that_speaks_no_tls_or_nothing_holds_nobody_up() {
    let certificate = Certificate::new();
    let settings = patient(certificate.settings(), 200, 600_000, 600_000);
    let running = Running::start(FakeEngine::default(), settings).await;
    let reply = running.exchange("GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!reply.contains("HTTP/1.1 200"), "{reply}");
    to_end(running.connect().await).await;
    assert_eq!(running.metrics.late_so_far(Late::Handshake), 1);
    let name = ServerName::try_from("localhost").expect("a name");
    certificate.trusting().connect(name, running.connect().await).await.expect("a handshake");
}

#[test]
fn files_that_cannot_be_used_are_told_with_flag_and_path() {
    let (one, other) = (Certificate::new(), Certificate::new());
    let (cert, key) = (one.folder.path().join("cert.pem"), one.folder.path().join("key.pem"));
    let missing = one.folder.path().join("missing.pem");
    let said = refused(&missing, &key);
    assert!(said.contains("missing.pem") && said.contains("--tls-cert"), "{said}");
    let said = refused(&cert, &missing);
    assert!(said.contains("missing.pem") && said.contains("--tls-key"), "{said}");
    let said = refused(&key, &key);
    assert!(said.contains("key.pem has no certificate in PEM form (--tls-cert)"), "{said}");
    let said = refused(&cert, &cert);
    assert!(said.contains("cert.pem has no private key in PEM form (--tls-key)"), "{said}");
    let said = refused(&cert, &other.folder.path().join("key.pem"));
    assert!(said.contains("cannot be used with the key"), "{said}");
    let half = Settings { tls_cert: Some(cert), ..Settings::default() };
    let said = tls::acceptor(&half).err().expect("refused").to_string();
    assert!(said.contains("--tls-cert is given and --tls-key is not"), "{said}");
    assert!(tls::acceptor(&Settings::default()).expect("none").is_none());
}
