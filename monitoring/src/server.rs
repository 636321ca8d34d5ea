//! The HTTP server, on a thread of its own. What it answers is in `pages`.
//!
//! Nobody can hold it up: there is one thread and no waiting in it, connections are few, and when all are taken the one
//! that has been quiet for longest makes room for the next.

use crate::history::Memory;
use crate::pages::Pages;
use crate::snapshot::{Reading, Snapshot};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};
use tokio::task::LocalSet;

/// What a client may use, and see.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections served at a time.
    pub connections_max: usize,
    /// A client that has not sent its first request by then is cut off.
    pub first_request: Duration,
    /// A client that has been quiet for longer is cut off: scrapers come every minute or so.
    pub idle: Duration,
    /// Whether the status page shows texts of errors.
    pub details: fn() -> bool,
}

impl Default for Limits {
    fn default() -> Limits {
        let (first_request, idle) = (Duration::from_secs(10), Duration::from_secs(75));
        Limits { connections_max: 64, first_request, idle, details: || false }
    }
}

/// A request's line and headers, and what is buffered of it.
const REQUEST_BYTES_MAX: usize = 16 << 10;
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
    /// Listens on `address` and serves what `snapshot` returns, which is called on the server's thread for each request,
    /// and every few seconds, and must read atomics only. The last minutes are kept in `memory`.
    ///
    /// The caller masks all signals around this call: the thread inherits the mask and must never run a handler.
    pub fn start(
        address: impl ToSocketAddrs,
        limits: Limits,
        snapshot: impl Fn(Reading) -> Snapshot + Send + 'static,
        memory: impl Memory,
    ) -> io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("pg_trickle metrics".into()).spawn(move || {
            let serve = || {
                LocalSet::new()
                    .block_on(&runtime, serve(listener, limits, Box::new(snapshot), Box::new(memory), stopped))
            };
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

/// Gives the figures.
pub(crate) type Source = Box<dyn Fn(Reading) -> Snapshot>;

async fn serve(
    listener: TcpListener,
    limits: Limits,
    snapshot: Source,
    memory: Box<dyn Memory>,
    stopped: oneshot::Receiver<()>,
) {
    let pages = Rc::new(Pages::new(snapshot, limits.details, memory));
    tokio::task::spawn_local(accept(listener, limits, Rc::clone(&pages)));
    tokio::task::spawn_local(async move {
        loop {
            pages.remember();
            tokio::time::sleep(crate::history::INTERVAL).await;
        }
    });
    // Ends when the sender is dropped, too. The tasks end with the runtime.
    let _ = stopped.await;
}

/// A connection as the others see it.
struct Client {
    /// When it was made, or sent its last request.
    heard: Cell<Instant>,
    requests: Cell<u64>,
    /// It is to make room.
    leave: Notify,
}

#[derive(Default)]
struct Clients(RefCell<Vec<Rc<Client>>>);

impl Clients {
    /// A place for one more; if there is none, the quietest is asked to leave.
    fn admit(&self, max: usize) -> Rc<Client> {
        let mut all = self.0.borrow_mut();
        if all.len() >= max
            && let Some(quietest) = (0..all.len()).min_by_key(|&i| all[i].heard.get())
        {
            all.swap_remove(quietest).leave.notify_one();
        }
        let client = Rc::new(Client { heard: Cell::new(Instant::now()), requests: Cell::new(0), leave: Notify::new() });
        all.push(Rc::clone(&client));
        client
    }

    fn remove(&self, client: &Rc<Client>) {
        self.0.borrow_mut().retain(|other| !Rc::ptr_eq(other, client));
    }
}

async fn accept(listener: TcpListener, limits: Limits, pages: Rc<Pages>) -> io::Result<Infallible> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let clients = Rc::new(Clients::default());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (clients, pages) = (Rc::clone(&clients), Rc::clone(&pages));
        let client = clients.admit(limits.connections_max);
        tokio::task::spawn_local(async move {
            converse(stream, &client, &limits, &pages).await;
            clients.remove(&client);
        });
    }
}

/// Requests and their answers. What goes wrong is the client's doing and its loss.
async fn converse(stream: tokio::net::TcpStream, client: &Client, limits: &Limits, pages: &Pages) {
    let service = service_fn(|request| async move {
        client.heard.set(Instant::now());
        client.requests.set(client.requests.get() + 1);
        Ok::<_, Infallible>(pages.answer(&request))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // What follows limits the time of everything, not of headers alone.
        .header_read_timeout(None)
        .max_buf_size(REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let overdue = async {
        loop {
            let patience = if client.requests.get() == 0 { limits.first_request } else { limits.idle };
            let Some(left) = patience.checked_sub(client.heard.get().elapsed()) else { return };
            tokio::time::sleep(left).await;
        }
    };
    tokio::select! {
        _ = connection => {}
        () = client.leave.notified() => {}
        () = overdue => {}
    }
}
