//! The HTTP server: `/metrics` and `/health`, on a thread of its own.

use crate::metrics;
use crate::snapshot::{CaptureState, Snapshot};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::LocalSet;

/// Connections served at a time; more wait.
const CONNECTIONS_MAX: usize = 32;
/// A client that has not sent its request and taken the answer by then is cut off.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after a failed accept: running out of descriptors passes, or it does not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server. Dropping it stops the thread and joins it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address` and serves what `snapshot` returns, which is called on the server's thread for each request
    /// and must read atomics only.
    ///
    /// The caller masks all signals around this call: the thread inherits the mask and must never run a handler.
    pub fn start(address: impl ToSocketAddrs, snapshot: impl Fn() -> Snapshot + Send + 'static) -> io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("pg_trickle metrics".into()).spawn(move || {
            let serve = || LocalSet::new().block_on(&runtime, serve(listener, Rc::new(snapshot), stopped));
            // A panic ends the thread, which `is_running` tells; nobody else must hear of it.
            let _ = catch_unwind(AssertUnwindSafe(serve));
        })?;
        Ok(Server { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it still serves; if not, it should be started anew.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops the thread and joins it.
    pub fn stop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // Its panics are caught inside.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve<F: Fn() -> Snapshot + 'static>(listener: TcpListener, snapshot: Rc<F>, stopped: oneshot::Receiver<()>) {
    tokio::task::spawn_local(accept(listener, snapshot));
    // Ends when the sender is dropped, too. The tasks end with the runtime.
    let _ = stopped.await;
}

async fn accept<F: Fn() -> Snapshot + 'static>(listener: TcpListener, snapshot: Rc<F>) -> io::Result<Infallible> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let snapshot = Rc::clone(&snapshot);
        tokio::task::spawn_local(async move {
            converse(stream, &*snapshot).await;
            drop(place);
        });
    }
}

/// One request and its answer. What goes wrong is the client's doing and its loss.
async fn converse(stream: tokio::net::TcpStream, snapshot: &impl Fn() -> Snapshot) {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request, snapshot)) });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CLIENT_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(CLIENT_TIMEOUT, connection).await;
}

fn answer(request: &Request<Incoming>, snapshot: &impl Fn() -> Snapshot) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let page: fn(&Snapshot) -> Response<Full<Bytes>> = match request.uri().path() {
        "/metrics" => metrics_page,
        "/health" => health_page,
        _ => return text(StatusCode::NOT_FOUND, "see /metrics and /health\n".into()),
    };
    catch_unwind(AssertUnwindSafe(|| page(&snapshot())))
        .unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "no snapshot\n".into()))
}

fn metrics_page(snapshot: &Snapshot) -> Response<Full<Bytes>> {
    match metrics::render(snapshot) {
        Ok(metrics) => {
            let mut response = text(StatusCode::OK, metrics);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT));
            response
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
    }
}

/// 200 unless capture of some database keeps failing.
fn health_page(snapshot: &Snapshot) -> Response<Full<Bytes>> {
    let failing = |d: &&crate::Database| d.capture == CaptureState::Failing;
    let failing: Vec<_> = snapshot.databases.iter().filter(failing).map(|d| d.name.as_str()).collect();
    if failing.is_empty() {
        text(StatusCode::OK, "ok\n".into())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, format!("capture keeps failing in: {}\n", failing.join(", ")))
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
