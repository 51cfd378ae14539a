//! The server itself: in process as a tower service, and over HTTP for everybody else.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time;
use tokio_rustls::TlsAcceptor;
use tower::Service;

use super::answer::Failure;
use super::fault::{Fault, Faults, How};
use super::log::{LOOK, Logs};
use super::rbac::User;
use super::request::Asked;
use super::store::{Store, Timing};
use super::watch::Watch;

type Trouble = io::Error;
type Answer = Response<UnsyncBoxBody<Bytes, Trouble>>;

/// An API server.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    users: Mutex<BTreeMap<String, User>>,
    /// Between a request and its answer.
    latency: Mutex<Duration>,
    /// Cuts each watch after so many events.
    watch_events: Mutex<Option<usize>>,
    logs: Mutex<Logs>,
    /// What Services answer, by `http:NAME:PORT` and path.
    services: Mutex<BTreeMap<(String, String), Value>>,
    /// Of its version.
    minor: Mutex<String>,
    changed: watch::Sender<i64>,
    killed: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Server {
    /// A server, whose controllers work until the runtime ends.
    pub fn start(timing: Timing, now: Timestamp) -> Self {
        let server = Self(Arc::new(Inner {
            store: Mutex::new(Store::new(timing, now)),
            faults: Mutex::default(),
            users: Mutex::default(),
            latency: Mutex::new(Duration::from_millis(3)),
            watch_events: Mutex::default(),
            logs: Mutex::default(),
            services: Mutex::default(),
            minor: Mutex::new("33".into()),
            changed: watch::Sender::new(0),
            killed: Notify::new(),
        }));
        let controllers = server.clone();
        tokio::spawn(async move { controllers.control().await });
        server
    }

    async fn control(&self) {
        let mut changed = self.0.changed.subscribe();
        loop {
            let due = self.with(|store| {
                store.work();
                store.due()
            });
            let wait = async {
                match due {
                    Some(due) => time::sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                _ = changed.changed() => {}
            }
        }
    }

    /// Looks at or changes everything, as whoever has etcd's key can.
    pub fn with<T>(&self, what: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = lock(&self.0.store);
        let result = what(&mut store);
        let version = store.version();
        drop(store);
        self.0.changed.send_if_modified(|seen| std::mem::replace(seen, version) != version);
        result
    }

    /// Whoever has `token` is `name`, with these rules; `None` may do everything.
    pub fn user(&self, token: &str, name: &str, rules: Option<Vec<Value>>) {
        lock(&self.0.users).insert(token.to_owned(), User { name: name.to_owned(), rules });
    }

    /// Nobody has `token` any more, as after its account was deleted.
    pub fn forget_user(&self, token: &str) {
        lock(&self.0.users).remove(token);
    }

    /// Has these requests go wrong; counts from here on.
    pub fn plan(&self, faults: Vec<Fault>) {
        *lock(&self.0.faults) = Faults { log: Vec::new(), planned: faults };
    }

    /// The requests since.
    pub fn log(&self) -> Vec<String> {
        lock(&self.0.faults).log.clone()
    }

    /// It is Kubernetes 1.`minor`.
    pub fn set_minor(&self, minor: &str) {
        minor.clone_into(&mut lock(&self.0.minor));
    }

    pub fn set_latency(&self, latency: Duration) {
        *lock(&self.0.latency) = latency;
    }

    /// Cuts each watch after so many events.
    pub fn cut_watches(&self, events: Option<usize>) {
        *lock(&self.0.watch_events) = events;
    }

    /// Returns when a client is to be killed.
    pub async fn killed(&self) {
        self.0.killed.notified().await;
    }

    /// Serves HTTP on a port of the loopback.
    pub async fn listen(&self) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().connection(stream));
            }
        });
        Ok(address)
    }

    /// The same over TLS, as the pods of a cluster reach it.
    pub async fn listen_securely(&self, tls: TlsAcceptor) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, secured) = (server.clone(), tls.accept(stream));
                // Who breaks it off before it is one is no client.
                tokio::spawn(async move {
                    if let Ok(stream) = secured.await {
                        server.connection(stream).await;
                    }
                });
            }
        });
        Ok(address)
    }

    async fn connection(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let service = service_fn(move |request: Request<Incoming>| {
            let server = self.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map_err(io::Error::other)?;
                server.serve(head, body.to_bytes()).await
            }
        });
        // An error is a connection that was cut, by either side.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    /// The service for a client in this process that has `token`.
    pub fn in_process(&self, token: &str) -> InProcess {
        InProcess { server: self.clone(), token: token.to_owned() }
    }

    /// Answers a request; an error is a connection that is cut.
    async fn serve(&self, head: Parts, body: Bytes) -> Result<Answer, Trouble> {
        if head.uri.path() == "/version" {
            let minor = lock(&self.0.minor).clone();
            let version = serde_json::json!({
                "major": "1", "minor": minor, "gitVersion": format!("v1.{minor}.1+k3s1"), "gitCommit": "0", "gitTreeState": "clean",
                "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.24", "compiler": "gc", "platform": "linux/arm64",
            });
            return Ok(json_answer(200, &version));
        }
        let asked = match Asked::of(&head.method, &head.uri) {
            Ok(asked) => asked,
            Err(failure) => return Ok(failed(&failure)),
        };
        let fault = lock(&self.0.faults).next(&asked);
        let latency = *lock(&self.0.latency);
        time::sleep(latency / 2).await;
        match fault {
            Some(How::CutBefore) => return Err(io::ErrorKind::ConnectionReset.into()),
            Some(How::KillBefore) => {
                self.0.killed.notify_one();
                return pending().await;
            }
            Some(How::Forbidden) => return Ok(failed(&Failure::forbidden("kflash", &asked))),
            Some(How::TooMany) => return Ok(failed(&Failure::too_many_requests())),
            Some(How::Internal) => return Ok(failed(&Failure::internal())),
            Some(How::Unavailable) => return Ok(failed(&Failure::unavailable())),
            Some(How::CutAfter | How::Hang | How::KillAfter) | None => {}
        }
        let answer = self.answer(&asked, &head.headers, &body).unwrap_or_else(|failure| failed(&failure));
        time::sleep(latency / 2).await;
        match fault {
            Some(How::CutAfter) => Err(io::ErrorKind::ConnectionReset.into()),
            Some(How::Hang) => pending().await,
            Some(How::KillAfter) => {
                self.0.killed.notify_one();
                pending().await
            }
            _ => Ok(answer),
        }
    }

    fn answer(&self, asked: &Asked, headers: &HeaderMap, body: &[u8]) -> Result<Answer, Failure> {
        let header =
            |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok()).unwrap_or_default();
        let token = header("authorization").strip_prefix("Bearer ").unwrap_or_default();
        let user = lock(&self.0.users).get(token).cloned().ok_or_else(Failure::unauthorized)?;
        user.may(asked)?;
        if asked.subresource.as_deref() == Some("log") {
            return self.log_of(asked);
        }
        if asked.subresource.as_deref() == Some("proxy") {
            let target = asked.name.clone().unwrap_or_default();
            let body = lock(&self.0.services).get(&(target, asked.behind.clone())).cloned();
            return body.map(|body| json_answer(200, &body)).ok_or_else(Failure::unavailable);
        }
        if asked.verb == "watch" {
            let watch = self.with(|store| Watch::of(asked, store))?;
            return Ok(self.stream(watch));
        }
        let (code, object) = self.with(|store| store.answer(asked, header("content-type"), body))?;
        Ok(json_answer(code, &object))
    }

    /// A Service answers this to whoever asks through the API server.
    pub fn set_service(&self, target: &str, path: &str, answer: Value) {
        lock(&self.0.services).insert((target.to_owned(), path.to_owned()), answer);
    }

    /// A container writes this; `None` ends it.
    pub fn log_line(&self, pod: &str, container: &str, line: Option<&str>) {
        let mut logs = lock(&self.0.logs);
        let log = logs.of(pod, container);
        log.lines.extend(line.map(str::to_owned));
        log.ended |= line.is_none();
    }

    /// Cuts the next connection that reads a log after so many lines.
    pub fn cut_logs(&self, lines: Option<usize>) {
        lock(&self.0.logs).cut = lines;
    }

    fn log_of(&self, asked: &Asked) -> Result<Answer, Failure> {
        let pod = asked.name.clone().unwrap_or_default();
        // Of a pod with one container it need not be said which.
        let only = self.with(|store| {
            let containers = store.get(asked.resource, &asked.namespace, &pod)?["spec"]["containers"].clone();
            Ok(containers[0]["name"].as_str().unwrap_or_default().to_owned())
        })?;
        let container = asked.query("container").map_or(only, str::to_owned);
        let follow = asked.query("follow") == Some("true");
        let waiting = format!("container \"{container}\" in pod \"{pod}\" is waiting to start: PodInitializing");
        if lock(&self.0.logs).get(&pod, &container).is_none() {
            return Err(Failure::bad_request(waiting));
        }
        let left = lock(&self.0.logs).cut.take();
        let state = (self.clone(), 0, left);
        let body = stream::unfold(state, move |(server, at, left)| {
            let (pod, container) = (pod.clone(), container.clone());
            async move {
                loop {
                    let (line, ended) = {
                        let logs = lock(&server.0.logs);
                        let log = logs.get(&pod, &container)?;
                        (log.lines.get(at).cloned(), log.ended)
                    };
                    match line {
                        _ if left == Some(at) => {
                            return Some((Err(io::ErrorKind::UnexpectedEof.into()), (server, at, None)));
                        }
                        Some(line) => {
                            return Some((Ok(Frame::data(Bytes::from(format!("{line}\n")))), (server, at + 1, left)));
                        }
                        None if ended || !follow => return None,
                        None => time::sleep(LOOK).await,
                    }
                }
            }
        });
        Ok(Response::new(StreamBody::new(body).boxed_unsync()))
    }

    fn stream(&self, watch: Watch) -> Answer {
        let events = Streaming {
            server: self.clone(),
            changed: self.0.changed.subscribe(),
            watch,
            ready: VecDeque::new(),
            over: false,
            left: *lock(&self.0.watch_events),
        };
        let body = stream::unfold(events, |mut events| async move {
            let line = events.next().await?;
            Some((line.map(Frame::data), events))
        });
        let mut answer = Response::new(StreamBody::new(body).boxed_unsync());
        answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        answer
    }
}

/// A watch that is being answered.
struct Streaming {
    server: Server,
    changed: watch::Receiver<i64>,
    watch: Watch,
    ready: VecDeque<Value>,
    over: bool,
    /// Events until it is cut.
    left: Option<usize>,
}

impl Streaming {
    /// The next line; `None` at the end.
    async fn next(&mut self) -> Option<Result<Bytes, Trouble>> {
        loop {
            if self.left == Some(0) {
                self.left = None;
                self.over = true;
                self.ready.clear();
                return Some(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Some(event) = self.ready.pop_front() {
                self.left = self.left.map(|left| left - 1);
                return Some(Ok(Bytes::from(format!("{event}\n"))));
            }
            if self.over {
                return None;
            }
            self.changed.mark_unchanged();
            let (events, over) = self.server.with(|store| self.watch.events(store));
            self.over = over;
            self.ready = events.into();
            if self.ready.is_empty() && !self.over {
                let until = self.watch.bookmark.map_or(self.watch.end, |bookmark| bookmark.min(self.watch.end));
                tokio::select! {
                    () = time::sleep_until(until) => {}
                    changed = self.changed.changed() => self.over = changed.is_err(),
                }
            }
        }
    }
}

fn failed(failure: &Failure) -> Answer {
    let mut answer = match failure.text {
        Some(text) => with_body(failure.code, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes())),
        None => json_answer(failure.code, &failure.status()),
    };
    if let Some(seconds) = failure.retry_after {
        answer.headers_mut().insert("retry-after", seconds.into());
    }
    answer
}

fn json_answer(code: u16, object: &Value) -> Answer {
    with_body(code, "application/json", Bytes::from(object.to_string()))
}

fn with_body(code: u16, content_type: &'static str, body: Bytes) -> Answer {
    let body = Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static(content_type));
    answer
}

/// A connection of a client in the same process.
#[derive(Clone)]
pub struct InProcess {
    server: Server,
    token: String,
}

impl<B> Service<Request<B>> for InProcess
where
    B: Body + Send + 'static,
    B::Error: Debug,
    B::Data: Send,
{
    type Response = Answer;
    type Error = Trouble;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Trouble>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Self { server, token } = self.clone();
        Box::pin(async move {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().map_err(io::Error::other)?);
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(|error| io::Error::other(format!("{error:?}")))?;
            server.serve(head, body.to_bytes()).await
        })
    }
}
