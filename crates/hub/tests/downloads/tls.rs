//! Servers with TLS certificates.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use regraft_hub::{Error, Local, Reason, fetch};
use regraft_io::sha256;
use regraft_testing::server::{Reply, Server};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::common::{Cache, NAME, file, weights};

/// A certificate for `localhost`, and its key.
const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/downloads/localhost.pem");

/// A TLS front for an http server.
struct Front {
    address: SocketAddr,
}

impl Front {
    fn of(server: &Server) -> Self {
        let certificate = CertificateDer::from_pem_file(CERTIFICATE).unwrap();
        let key = PrivateKeyDer::from_pem_file(CERTIFICATE).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = Arc::new(builder.with_single_cert(vec![certificate], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let behind = server.url("").trim_start_matches("http://").trim_end_matches('/').to_owned();
        // It listens until the tests are over.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, behind) = (config.clone(), behind.clone());
                thread::spawn(move || pass(stream, config, &behind));
            }
        });
        Self { address }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/{NAME}", self.address.port())
    }

    /// Fetches the file, trusting this front's certificate or not.
    fn fetch(&self, cache: &mut Cache, trusted: bool) -> Result<Local, Error> {
        cache.settings.certificates = trusted.then(|| CERTIFICATE.into());
        fetch(&weights(&self.url()), &cache.settings, &cache.listener, &cache.listener.cancel())
    }
}

/// Forwards one request and its response. Fails for a client that does not trust the certificate.
fn pass(stream: TcpStream, config: Arc<ServerConfig>, behind: &str) -> io::Result<()> {
    let mut client = StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, stream);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        request.extend(byte);
    }
    let mut server = TcpStream::connect(behind)?;
    server.write_all(&request)?;
    io::copy(&mut server, &mut client)?;
    client.conn.send_close_notify();
    client.flush()
}

#[test]
fn fetch_trusts_the_named_certificate() {
    let server = Server::of(file());
    let (front, mut cache) = (Front::of(&server), Cache::new());
    assert_eq!(front.fetch(&mut cache, true).unwrap().sha256, sha256(&file()));
}

#[test]
fn fetch_refuses_an_unknown_certificate() {
    let server = Server::of(file());
    let (front, mut cache) = (Front::of(&server), Cache::new());
    let error = front.fetch(&mut cache, false).unwrap_err();
    assert!(matches!(error, Error::Fetch { reason: Reason::Tls(_), .. }), "{error:?}");
    assert!(error.to_string().contains("SSL_CERT_FILE") && error.to_string().contains(&front.url()), "{error}");
    assert!(server.requests().is_empty());
    cache.holds_nothing();
}

#[test]
fn fetch_refuses_a_redirect_away_from_https() {
    let plain = Server::of(file());
    let to = format!("Location: {}", plain.url(NAME));
    let server = Server::new(move |_, _| Reply::new(302, &[&to, "Content-Length: 0"], b""));
    let (front, mut cache) = (Front::of(&server), Cache::new());
    let error = front.fetch(&mut cache, true).unwrap_err();
    assert!(matches!(error, Error::Fetch { reason: Reason::Downgrade, .. }), "{error:?}");
    assert!(plain.requests().is_empty());
    cache.holds_nothing();
}

#[test]
fn fetch_names_a_file_without_certificates() {
    let mut cache = Cache::new();
    let path = cache.beside("empty.pem");
    fs::write(&path, "no certificate").unwrap();
    cache.settings.certificates = Some(path);
    let error =
        fetch(&weights("https://localhost/weights.pth"), &cache.settings, &cache.listener, &cache.listener.cancel())
            .unwrap_err();
    assert!(
        matches!(&error, Error::Setting { field: "SSL_CERT_FILE", value, .. } if value.ends_with("empty.pem")),
        "{error}"
    );
}
