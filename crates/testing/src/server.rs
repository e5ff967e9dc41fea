//! An HTTP server on this machine whose answers a test decides, the wrong ones too.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a client asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, or `CONNECT` where the client takes this server for a proxy.
    pub method: String,
    /// The path, such as `/weights.pth`.
    pub path: String,
    /// Names in lower case, and values.
    headers: Vec<(String, String)>,
}

impl Request {
    /// The value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first byte that is asked for, where the request is for a part.
    pub fn start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }

    fn read(stream: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut line = || {
            let mut line = String::new();
            stream.by_ref().take(1 << 16).read_line(&mut line).ok().filter(|&n| n > 0)?;
            Some(line.trim_end().to_owned())
        };
        let first = line()?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (words.next()?, words.next()?);
        let mut headers = Vec::new();
        loop {
            match line()?.split_once(':') {
                Some((key, value)) => headers.push((key.to_lowercase(), value.trim().to_owned())),
                None => return Some(Self { method, path, headers }),
            }
        }
    }
}

/// An answer, byte by byte.
pub struct Reply {
    bytes: Vec<u8>,
    end: End,
}

enum End {
    /// Close the connection.
    Close,
    /// Say nothing more until the server goes.
    Stall,
    /// Listen to what the client says next, as a proxy that has connected.
    Go,
}

impl Reply {
    /// These bytes and no more, headers and all.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), end: End::Close }
    }

    /// A status with headers (`Name: value`) and a body whose length the caller states.
    pub fn new(status: u16, headers: &[&str], body: &[u8]) -> Self {
        let mut head = format!("HTTP/1.1 {status} Some words\r\nConnection: close\r\n");
        headers.iter().for_each(|header| head += &format!("{header}\r\n"));
        Self::raw([head.as_bytes(), b"\r\n", body].concat())
    }

    /// An answer without content.
    pub fn status(status: u16) -> Self {
        Self::new(status, &["Content-Length: 0"], b"")
    }

    /// As a good server answers: the file, or the part that was asked for if it is still the one called `tag`.
    pub fn file(request: &Request, file: &[u8], tag: &str) -> Self {
        match request.start() {
            Some(start) if request.header("if-range").is_none_or(|known| known == tag) => {
                Self::part(file, start, Some(tag))
            }
            _ => Self::whole(file, Some(tag)),
        }
    }

    /// The file from its first byte on.
    pub fn whole(file: &[u8], tag: Option<&str>) -> Self {
        let length = format!("Content-Length: {}", file.len());
        Self::new(200, &[&length, &etag(tag)], file)
    }

    /// The file from byte `start` on.
    pub fn part(file: &[u8], start: usize, tag: Option<&str>) -> Self {
        let Some(rest) = file.get(start..).filter(|rest| !rest.is_empty()) else { return Self::status(416) };
        let length = format!("Content-Length: {}", rest.len());
        let range = format!("Content-Range: bytes {start}-{}/{}", file.len() - 1, file.len());
        Self::new(206, &[&length, &range, &etag(tag)], rest)
    }

    /// The same with its last `bytes` bytes never sent.
    pub fn cut(mut self, bytes: usize) -> Self {
        self.bytes.truncate(self.bytes.len() - bytes);
        self
    }

    /// The same with the connection open and silent afterwards.
    pub fn stall(mut self) -> Self {
        self.end = End::Stall;
        self
    }

    /// The same with more requests on the same connection.
    pub fn go_on(mut self) -> Self {
        self.end = End::Go;
        self
    }
}

fn etag(tag: Option<&str>) -> String {
    tag.map_or_else(|| "X-Nothing: 0".into(), |tag| format!("ETag: {tag}"))
}

/// A running server; it goes when dropped.
pub struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    gone: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// A server that gives each request the answer that `answer` makes of the number of requests before it and of the
    /// request itself.
    ///
    /// # Panics
    /// If this machine gives it no port.
    pub fn new(answer: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (requests, gone) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (answer, heard, over) = (Arc::new(answer), requests.clone(), gone.clone());
        let listener = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, heard, over) = (answer.clone(), heard.clone(), over.clone());
                thread::spawn(move || serve(stream, &*answer, &heard, &over));
            }
        });
        Self { address, requests, gone, listener: Some(listener) }
    }

    /// A good server that has one file, whatever the path.
    pub fn of(file: Vec<u8>) -> Self {
        Self::new(move |_, request| Reply::file(request, &file, "\"it\""))
    }

    /// The address of `path` there.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// All requests so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no test thread has panicked").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the listener
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn serve(
    stream: TcpStream,
    answer: &(dyn Fn(usize, &Request) -> Reply + Send + Sync),
    heard: &Mutex<Vec<Request>>,
    over: &AtomicBool,
) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = Request::read(&mut stream) {
        let number = {
            let mut heard = heard.lock().expect("no test thread has panicked");
            heard.push(request.clone());
            heard.len() - 1
        };
        let reply = answer(number, &request);
        // A client may have enough before the end.
        let _ = stream.get_mut().write_all(&reply.bytes);
        match reply.end {
            End::Go => continue,
            End::Close => return,
            End::Stall => {
                while !over.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(10));
                }
                return;
            }
        }
    }
}
