//! An HTTPS server with a certificate authority of its own, that answers as badly as it is told to.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A name that the certificate is for, and that no resolver knows.
pub const NAME: &str = "firmware.test";

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: Length,
    end: End,
    ranges: bool,
}

/// What the server says of the length.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Length {
    True,
    Lie(u64),
    Unsaid,
}

/// What comes after some bytes of the body.
#[derive(Clone, Copy, Debug)]
enum End {
    Whole,
    CutAt(usize),
    StallAt(usize),
}

impl Reply {
    /// A file, of which ranges can be asked for.
    pub fn file(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body: body.into(),
            length: Length::True,
            end: End::Whole,
            ranges: true,
        }
        .header("ETag", "\"one\"")
    }

    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self { status, ranges: false, ..Self::file("") }
    }

    /// A redirect to `target`.
    pub fn redirect(target: &str) -> Self {
        Self::status(302).header("Location", target)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Ranges are passed over, as if they had not been asked for.
    pub fn without_ranges(self) -> Self {
        Self { ranges: false, ..self }
    }

    /// The connection is gone after so many bytes of the body.
    pub fn cut_at(self, bytes: usize) -> Self {
        Self { end: End::CutAt(bytes), ..self }
    }

    /// Nothing comes any more after so many bytes of the body.
    pub fn stall_at(self, bytes: usize) -> Self {
        Self { end: End::StallAt(bytes), ..self }
    }

    /// The server says that the body is so long.
    pub fn of_length(self, bytes: u64) -> Self {
        Self { length: Length::Lie(bytes), ..self }
    }

    /// The server does not say how long the body is.
    pub fn of_unsaid_length(self) -> Self {
        Self { length: Length::Unsaid, ..self }
    }

    fn send(&self, request: &Request, stop: &AtomicBool, to: &mut impl Write) -> std::io::Result<()> {
        let mut status = self.status;
        let mut headers = self.headers.clone();
        let mut body = self.body.as_slice();
        if self.ranges
            && let Some(from) = request.from
        {
            let tag = self.headers.iter().find(|(name, _)| name == "ETag").map(|(_, tag)| tag);
            if request.if_range.as_ref().is_none_or(|asked| Some(asked) == tag) {
                if from >= body.len() {
                    status = 416;
                    body = b"";
                } else {
                    status = 206;
                    headers.push(("Content-Range".into(), format!("bytes {from}-{}/{}", body.len() - 1, body.len())));
                    body = &body[from..];
                }
            }
        }
        headers.push(("Connection".into(), "close".into()));
        match self.length {
            Length::True => headers.push(("Content-Length".into(), body.len().to_string())),
            Length::Lie(bytes) => headers.push(("Content-Length".into(), bytes.to_string())),
            Length::Unsaid => {}
        }
        write!(to, "HTTP/1.1 {status} -\r\n")?;
        for (name, value) in &headers {
            write!(to, "{name}: {value}\r\n")?;
        }
        to.write_all(b"\r\n")?;
        match self.end {
            End::Whole => to.write_all(body)?,
            End::CutAt(bytes) => to.write_all(&body[..bytes.min(body.len())])?,
            End::StallAt(bytes) => {
                to.write_all(&body[..bytes.min(body.len())])?;
                to.flush()?;
                while !stop.load(Ordering::SeqCst) {
                    thread::park_timeout(std::time::Duration::from_millis(20));
                }
            }
        }
        to.flush()
    }
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    pub path: String,
    /// From which byte on.
    pub from: Option<usize>,
    pub if_range: Option<String>,
}

#[derive(Default)]
struct State {
    /// The answers for a path, in order; the last stays.
    replies: Mutex<HashMap<String, VecDeque<Reply>>>,
    requests: Mutex<Vec<Request>>,
    stop: AtomicBool,
}

/// A running server; it ends with the value.
pub struct Server {
    state: Arc<State>,
    port: u16,
    tls: bool,
    /// The certificate authority, in PEM form.
    pub ca: String,
}

impl Server {
    pub fn https() -> Self {
        Self::start(true)
    }

    pub fn plain() -> Self {
        Self::start(false)
    }

    fn start(tls: bool) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1", "localhost", NAME].map(str::to_owned);
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        let config = tls.then(|| Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let (state, config) = (Arc::clone(&shared), config.clone());
                // A client that goes away in the middle is no failure of the server.
                thread::spawn(move || match config {
                    Some(config) => {
                        let connection = ServerConnection::new(config).unwrap();
                        let _ = state.answer(&mut StreamOwned::new(connection, stream));
                    }
                    None => {
                        let _ = state.answer(&mut &stream);
                    }
                });
            }
        });
        Self { state, port, tls, ca: ca.pem() }
    }

    /// Adds an answer for a path.
    pub fn reply(&self, path: &str, reply: Reply) -> &Self {
        self.state.replies.lock().unwrap().entry(path.into()).or_default().push_back(reply);
        self
    }

    /// Forgets the answers for a path.
    pub fn forget(&self, path: &str) -> &Self {
        self.state.replies.lock().unwrap().remove(path);
        self
    }

    /// What was asked for, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}{path}", self.port)
    }
}

impl State {
    fn answer<S: Read + Write>(&self, stream: &mut S) -> std::io::Result<()> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let request = Request {
            path: head.split(' ').nth(1).unwrap().to_owned(),
            from: header("range").map(|range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap()),
            if_range: header("if-range"),
        };
        self.requests.lock().unwrap().push(request.clone());
        let reply = {
            let mut replies = self.replies.lock().unwrap();
            match replies.get_mut(&request.path) {
                Some(queue) if queue.len() > 1 => queue.pop_front().unwrap(),
                Some(queue) => queue[0].clone(),
                None => Reply::status(404),
            }
        };
        reply.send(&request, &self.stop, stream)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// An HTTP proxy that connects everybody to one server, whatever they ask for.
pub struct Proxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (heard, server) = (Arc::clone(&asked), server.port);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let heard = Arc::clone(&heard);
                thread::spawn(move || {
                    let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
                    heard.lock().unwrap().push(lines.next().unwrap().unwrap());
                    lines.find(|line| line.as_ref().is_ok_and(String::is_empty));
                    let upstream = TcpStream::connect(("127.0.0.1", server)).unwrap();
                    (&client).write_all(b"HTTP/1.1 200 -\r\n\r\n").unwrap();
                    let (mut from, mut to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                    thread::spawn(move || std::io::copy(&mut from, &mut to));
                    let _ = std::io::copy(&mut &upstream, &mut &client);
                    let _ = client.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Self { port, asked }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The first line of each request.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}
