//! Serves the metrics: a small HTTP responder, for GET requests without a body.
//!
//! It binds to the address that was given and to no other, and runs on the run's runtime, whose threads do nothing but I/O. A
//! client that is slow, or sends nonsense, loses its connection and nothing else.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::{collect::served_text, exposition::CONTENT_TYPE, gpu_memory, monitor::Monitor};

/// Longest life of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at the same time; further ones are closed.
const MAX_CONNECTIONS: usize = 32;
/// Largest request, bytes.
const MAX_REQUEST: usize = 8 << 10;
/// Pause between two looks at the memory of GPUs, and while there is none.
const GPU_POLL: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(1)];
/// Pause after an error of the listener, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct MetricsServer {
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Serves the metrics of `monitor` at `address`, `HOST:PORT`. Port 0 takes a free one, which the log names.
///
/// # Errors
/// When the address cannot be resolved or is in use.
pub(crate) async fn serve(monitor: &Arc<Monitor>, address: &str) -> anyhow::Result<MetricsServer> {
    let failed = || format!("metrics cannot be served at {address}, as run.metrics_addr asks");
    let resolved = tokio::net::lookup_host(address).await.with_context(failed)?.next();
    let resolved = resolved.ok_or_else(|| anyhow!("its host has no address")).with_context(failed)?;
    let listener = TcpListener::bind(resolved).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow!("{}: the port is in use; choose another", failed()),
        _ => anyhow::Error::new(error).context(failed()),
    })?;
    let bound: SocketAddr = listener.local_addr().with_context(failed)?;
    tracing::info!(address = %format!("http://{bound}/metrics"), "serving metrics");
    let tasks = [
        tokio::spawn(accept_all(listener, Arc::clone(monitor))),
        tokio::spawn(watch_gpu_memory(Arc::clone(monitor))),
    ];
    Ok(MetricsServer { tasks })
}

async fn accept_all(listener: TcpListener, monitor: Arc<Monitor>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let monitor = Arc::clone(&monitor);
        tokio::spawn(async move {
            // Whatever happens to a connection concerns its client alone.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, answer(stream, &monitor)).await;
            drop(place);
        });
    }
}

/// Looks at the memory of the GPUs in use, as long as it is polled.
async fn watch_gpu_memory(monitor: Arc<Monitor>) {
    loop {
        let devices: Vec<u32> = (monitor.progress().devices.iter())
            .flat_map(|devices| devices.all())
            .filter_map(|device| device.execution.device())
            .collect();
        if !devices.is_empty() {
            // Not on the runtime's threads: a driver in trouble may take long.
            let looked = tokio::task::spawn_blocking(move || gpu_memory::query(&devices)).await;
            monitor.set_gpu_memory(looked.unwrap_or_default());
        }
        tokio::time::sleep(GPU_POLL[usize::from(monitor.gpu_memory().is_empty())]).await;
    }
}

async fn answer(mut stream: TcpStream, monitor: &Monitor) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !is_complete(&request) && request.len() < MAX_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let response = respond(&request, monitor);
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

fn is_complete(request: &[u8]) -> bool {
    request.windows(4).any(|end| end == b"\r\n\r\n") || request.windows(2).any(|end| end == b"\n\n")
}

/// Returns the whole response to a request's head.
fn respond(request: &[u8], monitor: &Monitor) -> String {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let line = request.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let parts = (words.next(), words.next(), words.next(), words.next());
    let (status, content_type, body) = match parts {
        _ if !is_complete(request) => ("400 Bad Request", PLAIN, "an incomplete request\n".to_owned()),
        (Some("GET"), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) => {
            match target.split('?').next().unwrap_or_default() {
                "/metrics" => ("200 OK", CONTENT_TYPE, served_text(monitor)),
                "/healthz" => ("200 OK", PLAIN, "ok\n".to_owned()),
                _ => ("404 Not Found", PLAIN, "there are /metrics and /healthz\n".to_owned()),
            }
        }
        (Some(_), Some(_), Some("HTTP/1.1" | "HTTP/1.0"), None) => {
            ("405 Method Not Allowed", PLAIN, "only GET is answered\n".to_owned())
        }
        _ => ("400 Bad Request", PLAIN, "not an HTTP/1.1 request\n".to_owned()),
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nAllow: GET\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: &str) -> String {
        let response = respond(request.as_bytes(), &Monitor::default());
        response.lines().next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status").to_owned()
    }

    #[test]
    fn anything_but_a_get_of_a_known_path_is_refused() {
        assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), "200 OK");
        assert_eq!(status("GET /metrics?a=b HTTP/1.0\n\n"), "200 OK");
        assert_eq!(status("GET /healthz HTTP/1.1\r\n\r\n"), "200 OK");
        assert_eq!(status("GET /../etc/passwd HTTP/1.1\r\n\r\n"), "404 Not Found");
        assert_eq!(status("POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n"), "405 Method Not Allowed");
        assert_eq!(status("GET /metrics HTTP/1.1\r\n"), "400 Bad Request");
        assert_eq!(status("\u{16}\u{3}\u{1} tls hello\n\n"), "400 Bad Request");
        assert_eq!(status(""), "400 Bad Request");
    }
}
