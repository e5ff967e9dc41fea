//! One request to a server, and what its answer means.

use std::fs;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::error::Reason;
use crate::{Error, Result, Settings};

/// How many redirects are followed.
const MAX_REDIRECTS: u32 = 10;

/// Asks servers for files.
pub(crate) struct Client {
    agent: Agent,
}

/// Why a request brought no file.
pub(crate) enum Failure {
    /// Asking again would bring the same.
    Final(Reason),
    /// It may be better in a while, after as long as the server says.
    Passing(Reason, Option<Duration>),
    /// The server knows no such part of its file.
    NoSuchPart,
}

/// The beginning of a file, or the rest of one.
pub(crate) struct Answer {
    /// Where the bytes that come belong: 0, or where was asked for.
    pub start: u64,
    /// What the server calls its file, where that is good enough to go on by.
    pub tag: Option<String>,
    /// The size of the whole file, if the server says.
    pub total: Option<u64>,
    body: Response<Body>,
}

impl Client {
    /// A client for `url`; where that has https, it follows no redirect that has not.
    ///
    /// # Errors
    /// [`Error::Setting`] if the certificates cannot be read.
    pub fn new(settings: &Settings, url: &str) -> Result<Self> {
        let patience = &settings.patience;
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.certificates {
            let wrong = |what: String| Error::Setting(format!("SSL_CERT_FILE is {}: {what}", path.display()));
            let pem = fs::read(path).map_err(|e| wrong(e.to_string()))?;
            let certificates: Vec<_> = parse_pem(&pem)
                .filter_map(|item| if let Ok(PemItem::Certificate(c)) = item { Some(c) } else { None })
                .collect();
            if certificates.is_empty() {
                return Err(wrong("no certificate in PEM is there".into()));
            }
            tls = tls.root_certs(RootCerts::from(certificates.into_iter()));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(url.starts_with("https://"))
            .max_redirects(MAX_REDIRECTS)
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.stall))
            .timeout_per_read(Some(patience.stall))
            .user_agent(concat!("regraft/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .tls_config(tls.build());
        Ok(Self { agent: config.build().into() })
    }

    /// Asks for a file, or for its rest from byte `start` on if it is still the one that was called `tag`.
    pub fn get(&self, url: &str, start: u64, tag: Option<&str>) -> Result<Answer, Failure> {
        let mut request = self.agent.get(url);
        let tag = tag.filter(|_| start > 0);
        if let Some(tag) = tag {
            request = request.header("Range", format!("bytes={start}-")).header("If-Range", tag);
        }
        let response = request.call().map_err(failure)?;
        let (status, headers) = (response.status(), response.headers());
        match status {
            StatusCode::OK => Ok(Answer {
                start: 0,
                tag: name_of_file(headers),
                total: response.body().content_length(),
                body: response,
            }),
            StatusCode::PARTIAL_CONTENT => {
                let range = header(headers, "content-range").and_then(content_range);
                let same = name_of_file(headers).is_none_or(|now| Some(now.as_str()) == tag);
                match range {
                    Some((from, total)) if from == start && same => {
                        Ok(Answer { start, tag: tag.map(Into::into), total, body: response })
                    }
                    _ => Err(Failure::NoSuchPart),
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Err(Failure::NoSuchPart),
            _ => {
                let reason = Reason::Status { status: status.as_u16(), attempts: 1 };
                if matches!(status.as_u16(), 408 | 429 | 500 | 502..=504) {
                    let seconds = header(headers, "retry-after").and_then(|value| value.parse().ok());
                    return Err(Failure::Passing(reason, seconds.map(Duration::from_secs)));
                }
                Err(Failure::Final(reason))
            }
        }
    }
}

impl Answer {
    /// Whether the whole file has a size that lies in `expected`; `true` where the server does not say.
    pub fn fits(&self, expected: &RangeInclusive<u64>) -> bool {
        self.total.is_none_or(|total| expected.contains(&total))
    }

    /// The bytes; dropping it closes the connection.
    pub fn into_reader(self) -> impl Read {
        // Bounded by who reads: the default bound is for bodies kept in memory.
        self.body.into_body().into_with_config().limit(u64::MAX).reader()
    }
}

/// Says of an error in the middle of a body what happened.
pub(crate) fn broken(error: &io::Error) -> String {
    let stalled = error.kind() == io::ErrorKind::TimedOut
        || matches!(error.get_ref().and_then(|e| e.downcast_ref()), Some(ureq::Error::Timeout(_)));
    if stalled { "nothing more came".into() } else { "the connection broke off".into() }
}

/// What an error before any answer means.
fn failure(error: ureq::Error) -> Failure {
    use ureq::Error as E;
    use ureq::Timeout::{Connect, Resolve};
    let connect = |what: &str| Failure::Final(Reason::Connect { what: what.into() });
    let passing = |what: &str| Failure::Passing(Reason::Broken { what: what.into(), done: 0, attempts: 1 }, None);
    match error {
        E::HostNotFound | E::Timeout(Resolve) => connect("the server's name is not known"),
        E::ConnectionFailed | E::Timeout(Connect) => connect("the server cannot be reached"),
        E::Timeout(_) => passing("the server did not answer"),
        E::Io(e) => match e.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => passing("the server closed the connection"),
            io::ErrorKind::TimedOut => passing("the server did not answer"),
            io::ErrorKind::InvalidData => Failure::Final(Reason::Tls(e.to_string())),
            _ => connect(&format!("the server cannot be reached ({e})")),
        },
        E::ConnectProxyFailed(what) => Failure::Final(Reason::Proxy(what)),
        E::Rustls(e) => Failure::Final(Reason::Tls(e.to_string())),
        E::Tls(what) => Failure::Final(Reason::Tls(what.into())),
        E::TooManyRedirects => Failure::Final(Reason::Redirects),
        E::RequireHttpsOnly(_) => Failure::Final(Reason::Downgrade),
        other => Failure::Final(Reason::Protocol(other.to_string())),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A strong `ETag`, or the date of the last change: what `If-Range` accepts.
fn name_of_file(headers: &HeaderMap) -> Option<String> {
    let strong = header(headers, "etag").filter(|tag| tag.starts_with('"'));
    strong.or_else(|| header(headers, "last-modified")).map(Into::into)
}

/// First byte and size of the whole from `bytes 5-9/10`.
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
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for wrong in ["bytes */10", "5-9/10", "bytes 5-9", "bytes x-9/10", "bytes 5-9/x"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_a_strong_tag_names_a_file() {
        let name = |fields: &[(&'static str, &str)]| {
            name_of_file(&fields.iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap())).collect())
        };
        assert_eq!(name(&[("etag", "\"a\""), ("last-modified", "Mon")]).as_deref(), Some("\"a\""));
        assert_eq!(name(&[("etag", "W/\"a\""), ("last-modified", "Mon")]).as_deref(), Some("Mon"));
        assert_eq!(name(&[("etag", "W/\"a\"")]), None);
    }
}
