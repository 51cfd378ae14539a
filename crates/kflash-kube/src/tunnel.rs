//! A way to a Service of the cluster from outside, through the API server, for clients that know nothing of Kubernetes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use kube::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time;

/// The largest head of a request, in bytes.
const HEAD: usize = 16 << 10;
/// For how long a client may take to write it, and the API server to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is passed on: the port is open to all of this machine, and Moonraker may tell the cluster its API key.
const ASKED: [&str; 3] = ["/server/info", "/printer/info", "/printer/objects/query"];
/// Headers that are passed on: what a client asks with, and nothing of the connection.
const PASSED_ON: [&str; 3] = ["accept", "user-agent", "x-api-key"];

/// A Service that is reached by HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    namespace: String,
    /// `http:voron-klipper:7125`, as the API server wants it.
    target: String,
    /// What the address has after that.
    path: String,
}

impl Service {
    /// The Service that `url` names, as a pod in `namespace` would understand it; `None` where it names none.
    pub fn of(url: &str, namespace: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, port.parse::<u16>().ok()?.to_string()),
            None => (authority, if scheme == "https" { "443" } else { "80" }.to_owned()),
        };
        let label = |text: &&str| {
            !text.is_empty() && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        };
        let mut parts = host.split('.');
        let name = parts.next().filter(label)?;
        // NAME, NAME.NAMESPACE.svc, and that with the cluster's domain; NAME.NAMESPACE may be a host such as printer.local.
        let namespace = match (parts.next(), parts.next()) {
            (None, _) => namespace,
            (Some(other), Some("svc")) => Some(other).filter(label)?,
            _ => return None,
        };
        if !matches!(scheme, "http" | "https") || name == "localhost" || name.bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        Some(Self {
            namespace: namespace.to_owned(),
            target: format!("{scheme}:{name}:{port}"),
            path: path.trim_end_matches('/').to_owned(),
        })
    }

    fn uri(&self, path: &str) -> String {
        let Self { namespace, target, path: base } = self;
        format!("/api/v1/namespaces/{namespace}/services/{target}/proxy{base}{path}")
    }
}

/// Opens a port of the loopback behind which `service` answers what a gate asks, for as long as the runtime lives.
pub async fn open(client: Client, service: Service) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (client, service) = (client.clone(), service.clone());
            tokio::spawn(async move {
                // Whoever asked sees a connection that was closed.
                let _ = time::timeout(PATIENCE * 2, answer(stream, &client, &service)).await;
            });
        }
    });
    Ok(address)
}

async fn answer(mut stream: TcpStream, client: &Client, service: &Service) -> io::Result<()> {
    let head = time::timeout(PATIENCE, head(&mut stream)).await??;
    let (status, body) = match request(&head, service) {
        None => (400, said(400, "only what a gate asks is passed on")),
        Some(request) => match time::timeout(PATIENCE, client.request_text(request)).await {
            Ok(Ok(body)) => (200, body),
            // Its own word that this person may not ask is not Moonraker's, who would want a key.
            Ok(Err(kube::Error::Api(status))) if matches!(&*status.reason, "Forbidden" | "Unauthorized") => {
                (502, said(502, &status.message))
            }
            Ok(Err(kube::Error::Api(status))) if (400..600).contains(&status.code) => {
                (status.code, said(status.code, &status.message))
            }
            Ok(Err(error)) => (502, said(502, &error.to_string())),
            Err(_) => (504, said(504, "the API server does not answer")),
        },
    };
    let head = format!("HTTP/1.1 {status} -\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// An error as Moonraker says it.
fn said(code: u16, message: &str) -> String {
    serde_json::json!({"error": {"code": code, "message": message}}).to_string()
}

async fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await?;
        if read == 0 || head.len() + read > HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(head).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The request that is made of the API server for the one with this head.
fn request(head: &str, service: &Service) -> Option<http::Request<Vec<u8>>> {
    let mut lines = head.split("\r\n");
    let path = lines.next()?.strip_prefix("GET ")?.split(' ').next()?;
    ASKED.contains(&path.split('?').next()?).then_some(())?;
    let mut request = http::Request::get(service.uri(path));
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if PASSED_ON.iter().any(|passed| name.eq_ignore_ascii_case(passed)) {
            request = request.header(name, value.trim());
        }
    }
    request.body(Vec::new()).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_service_is_told_from_what_is_none() {
        for (url, uri) in [
            (
                "http://voron-klipper:7125",
                "/api/v1/namespaces/printers/services/http:voron-klipper:7125/proxy/server/info",
            ),
            ("https://voron.other.svc", "/api/v1/namespaces/other/services/https:voron:443/proxy/server/info"),
            (
                "http://voron.other.svc:80/moon/",
                "/api/v1/namespaces/other/services/http:voron:80/proxy/moon/server/info",
            ),
            (
                "http://voron.other.svc.cluster.local",
                "/api/v1/namespaces/other/services/http:voron:80/proxy/server/info",
            ),
        ] {
            assert_eq!(Service::of(url, "printers").unwrap().uri("/server/info"), uri);
        }
        for url in [
            "http://voron.lan.example:7125",
            "http://voron.local:7125",
            "http://127.0.0.1:7125",
            "http://localhost:7125",
            "http://[::1]:7125",
            "http://user@voron",
            "http://voron:port",
            "ftp://voron",
            "voron",
            "http://",
            "http://../secrets",
        ] {
            assert_eq!(Service::of(url, "printers"), None, "{url}");
        }
    }

    #[test]
    fn only_what_is_asked_is_passed_on() {
        let service = Service::of("http://voron", "printers").unwrap();
        let head = "GET /printer/info?a=b HTTP/1.1\r\nHost: x\r\nX-Api-Key: 5ec4e7\r\nAuthorization: Bearer y\r\n\r\n";
        let asked = request(head, &service).unwrap();
        assert_eq!(asked.uri(), "/api/v1/namespaces/printers/services/http:voron:80/proxy/printer/info?a=b");
        assert_eq!(asked.headers().len(), 1);
        assert_eq!(asked.headers()["x-api-key"], "5ec4e7");
        for line in [
            "POST /server/info HTTP/1.1",
            "GET http://elsewhere/ HTTP/1.1",
            "GET /access/api_key HTTP/1.1",
            "GET /server/info/../../access/api_key HTTP/1.1",
            "GET ",
            "",
        ] {
            assert!(request(&format!("{line}\r\n\r\n"), &service).is_none(), "{line}");
        }
    }
}
