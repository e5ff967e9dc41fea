//! One HTTP request, and what its response means.

use std::fs;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::error::Reason;
use crate::{Error, Result, Settings};

/// Most redirects that are followed.
const MAX_REDIRECTS: u32 = 10;

/// Requests files from servers.
pub(crate) struct Client {
    agent: Agent,
}

/// Why a request failed.
pub(crate) enum Failure {
    /// A retry would fail the same way.
    Permanent(Reason),
    /// A retry may succeed, after the pause that the server asks for.
    Transient(Reason, Option<Duration>),
    /// The server has no such range of its file.
    NoSuchRange,
}

/// A file from its first byte, or from the one that was requested.
pub(crate) struct FileResponse {
    /// Position of the first byte: 0, or the requested one.
    pub start: u64,
    /// Validator of the server's file: a strong `ETag` or a date; none if a download cannot be continued.
    pub validator: Option<String>,
    /// Size of the whole file, if the server announces it.
    pub total: Option<u64>,
    body: Response<Body>,
}

impl Client {
    /// A client for `url`. If that is https, redirects to other schemes are refused.
    ///
    /// # Errors
    /// [`Error::Setting`] if the certificates cannot be read.
    pub fn new(settings: &Settings, url: &str) -> Result<Self> {
        let timeouts = &settings.timeouts;
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.certificates {
            let wrong = |reason: &str| Error::Setting {
                field: "SSL_CERT_FILE",
                value: path.display().to_string(),
                allowed: format!("a file of certificates in PEM ({reason})"),
            };
            let pem = fs::read(path).map_err(|e| wrong(&e.to_string()))?;
            let certificates: Vec<_> = parse_pem(&pem)
                .filter_map(|item| if let Ok(PemItem::Certificate(c)) = item { Some(c) } else { None })
                .collect();
            if certificates.is_empty() {
                return Err(wrong("it has none"));
            }
            tls = tls.root_certs(RootCerts::from(certificates.into_iter()));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(url.starts_with("https://"))
            .max_redirects(MAX_REDIRECTS)
            .timeout_resolve(Some(timeouts.connect))
            .timeout_connect(Some(timeouts.connect))
            .timeout_recv_response(Some(timeouts.read))
            .timeout_per_read(Some(timeouts.read))
            .user_agent(concat!("regraft/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .tls_config(tls.build());
        Ok(Self { agent: config.build().into() })
    }

    /// Requests a file from byte `start` on, or from the first byte if the file's validator is no longer `validator`.
    pub fn get(&self, url: &str, start: u64, validator: Option<&str>) -> Result<FileResponse, Failure> {
        let mut request = self.agent.get(url);
        let validator = validator.filter(|_| start > 0);
        if let Some(validator) = validator {
            request = request.header("Range", format!("bytes={start}-")).header("If-Range", validator);
        }
        let response = request.call().map_err(failure)?;
        let (status, headers) = (response.status(), response.headers());
        match status {
            StatusCode::OK => Ok(FileResponse {
                start: 0,
                validator: validator_of(headers),
                total: response.body().content_length(),
                body: response,
            }),
            StatusCode::PARTIAL_CONTENT => {
                let range = header(headers, "content-range").and_then(content_range);
                let same = validator_of(headers).is_none_or(|now| Some(now.as_str()) == validator);
                match range {
                    Some((from, total)) if from == start && same => {
                        Ok(FileResponse { start, validator: validator.map(Into::into), total, body: response })
                    }
                    _ => Err(Failure::NoSuchRange),
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Err(Failure::NoSuchRange),
            _ => {
                let reason = Reason::Status { status: status.as_u16(), attempts: 1 };
                if matches!(status.as_u16(), 408 | 429 | 500 | 502..=504) {
                    let seconds = header(headers, "retry-after").and_then(|value| value.parse().ok());
                    return Err(Failure::Transient(reason, seconds.map(Duration::from_secs)));
                }
                Err(Failure::Permanent(reason))
            }
        }
    }
}

impl FileResponse {
    /// Whether the whole file's announced size lies in `expected`; `true` if none is announced.
    pub fn fits(&self, expected: &RangeInclusive<u64>) -> bool {
        self.total.is_none_or(|total| expected.contains(&total))
    }

    /// The bytes. Dropping the reader closes the connection.
    pub fn into_reader(self) -> impl Read {
        // The caller bounds the length; the default limit is for bodies that are kept in memory.
        self.body.into_body().into_with_config().limit(u64::MAX).reader()
    }
}

/// Describes an error in the middle of a body.
pub(crate) fn broken(error: &io::Error) -> String {
    let stalled = error.kind() == io::ErrorKind::TimedOut
        || matches!(error.get_ref().and_then(|e| e.downcast_ref()), Some(ureq::Error::Timeout(_)));
    if stalled { "the connection stalled".into() } else { "the connection broke".into() }
}

/// Classifies an error before any response.
fn failure(error: ureq::Error) -> Failure {
    use ureq::Error as E;
    use ureq::Timeout::{Connect, Resolve};
    let connect = |what: &str| Failure::Permanent(Reason::Connect { what: what.into() });
    let transient = |what: &str| Failure::Transient(Reason::Broken { what: what.into(), done: 0, attempts: 1 }, None);
    match error {
        E::HostNotFound | E::Timeout(Resolve) => connect("the server's name cannot be resolved"),
        E::ConnectionFailed | E::Timeout(Connect) => connect("the server cannot be reached"),
        E::Timeout(_) => transient("the server did not respond"),
        E::Io(e) => match e.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => transient("the server closed the connection"),
            io::ErrorKind::TimedOut => transient("the server did not respond"),
            io::ErrorKind::InvalidData => Failure::Permanent(Reason::Tls(e.to_string())),
            _ => connect(&format!("the server cannot be reached ({e})")),
        },
        E::ConnectProxyFailed(what) => Failure::Permanent(Reason::Proxy(what)),
        E::Rustls(e) => Failure::Permanent(Reason::Tls(e.to_string())),
        E::Tls(what) => Failure::Permanent(Reason::Tls(what.into())),
        E::TooManyRedirects => Failure::Permanent(Reason::Redirects),
        E::RequireHttpsOnly(_) => Failure::Permanent(Reason::Downgrade),
        other => Failure::Permanent(Reason::Protocol(other.to_string())),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A strong `ETag`, or the date of the last change: the validators that `If-Range` accepts.
fn validator_of(headers: &HeaderMap) -> Option<String> {
    let strong = header(headers, "etag").filter(|tag| tag.starts_with('"'));
    strong.or_else(|| header(headers, "last-modified")).map(Into::into)
}

/// First byte and size of the whole file, from `bytes 5-9/10`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((from.parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_reads_start_and_size() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for wrong in ["bytes */10", "5-9/10", "bytes 5-9", "bytes x-9/10", "bytes 5-9/x"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn validator_of_skips_weak_etags() {
        let validator = |fields: &[(&'static str, &str)]| {
            validator_of(&fields.iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap())).collect())
        };
        assert_eq!(validator(&[("etag", "\"a\""), ("last-modified", "Mon")]).as_deref(), Some("\"a\""));
        assert_eq!(validator(&[("etag", "W/\"a\""), ("last-modified", "Mon")]).as_deref(), Some("Mon"));
        assert_eq!(validator(&[("etag", "W/\"a\"")]), None);
    }
}
