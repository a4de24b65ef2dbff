//! A web server of static files that misbehaves on demand.
//!
//! It serves a directory with ranges, strong etags, conditional requests, HEAD and persistent
//! connections. Faults are scripted for each path: a request takes the next fault from the queue of
//! its path. If the queue is empty, it is served correctly.
//!
//! A fault that no request reaches proves nothing. [`FaultServer::finish`], [`FaultServer::calm`]
//! and the drop of the server panic if a scripted fault was not reached.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// One kind of misbehaviour.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// A correct answer that takes one place in a queue.
    Behave,
    /// Closes the connection after N bytes of the body.
    Cut(u64),
    /// Resets the connection after N bytes of the body.
    Reset(u64),
    /// Sends nothing more after N bytes of the body.
    Stall(u64),
    /// Sends the body in pieces of N bytes, with a pause before each.
    Drip(usize, Duration),
    /// States another length in the header.
    ContentLength(u64),
    /// States another range in the header.
    ContentRange(&'static str),
    /// Sends N bytes too many; states no length.
    Longer(usize),
    /// Sends N bytes too few; states no length.
    Shorter(usize),
    /// Flips one bit of the first byte of the body.
    FlipFirstBit,
    /// Answers with this status, an optional `Retry-After`, and no body.
    Status(u16, Option<&'static str>),
    /// Changes the etag. A request that is conditional on the old one is answered with the whole
    /// file.
    OtherEtag,
    /// Sends a weak etag.
    WeakEtag,
    /// Sends no etag.
    NoEtag,
    /// Ignores a requested range: answers 200 with the whole file.
    NoRanges,
    /// Refuses requests for a range, with this status or by closing the connection.
    RefuseRanges(Option<u16>),
    /// Sends this header, and N bytes too many.
    Header(&'static str, &'static str, usize),
    /// Redirects to this address.
    Redirect(String),
    /// Sends bytes that are not HTTP.
    Garbage,
    /// Closes the connection without an answer.
    Hangup,
    /// Closes the connection after a correct answer.
    Close,
}

/// A request of a client, and its answer.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// With its leading slash.
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    /// 0 if the server sent no answer.
    pub status: u16,
    /// Bytes of the body that were sent, or that were due when the client closed the connection.
    pub sent: u64,
}

/// The server; stops on drop.
pub struct FaultServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    root: PathBuf,
    stopped: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: HashMap<String, VecDeque<Fault>>,
    always: HashMap<String, Always>,
    seen: Vec<Request>,
    connections: usize,
}

/// A fault of all requests for a path.
struct Always {
    fault: Fault,
    is_reached: bool,
}

impl State {
    /// Scripted faults that no request has reached.
    fn unreached(&self) -> Vec<(&str, &Fault)> {
        let queued = self
            .next
            .iter()
            .flat_map(|(path, faults)| faults.iter().map(move |fault| (path.as_str(), fault)));
        let always = self.always.iter().filter(|(_, always)| !always.is_reached);
        queued
            .chain(always.map(|(path, always)| (path.as_str(), &always.fault)))
            .filter(|(_, fault)| **fault != Fault::Behave)
            .collect()
    }
}

impl FaultServer {
    /// Serves `root` on a free port of the loopback interface.
    pub fn serve(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared { root: root.to_owned(), ..Shared::default() });
        let server = FaultServer { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                shared.state().connections += 1;
                // A connection that the client closes early is not an error of the server.
                thread::spawn(move || stream.and_then(|stream| shared.serve_connection(stream)));
            }
        });

        server
    }

    /// `http://127.0.0.1:PORT/`
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Scripts one fault for each of the next requests for `path` (with its leading slash).
    pub fn next(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        self.shared.state().next.entry(path.to_owned()).or_default().extend(faults);
    }

    /// Scripts one fault for all requests for `path`, after those of [`next`](Self::next).
    #[track_caller]
    pub fn always(&self, path: &str, fault: Fault) {
        let always = Always { fault, is_reached: false };
        let replaced = self.shared.state().always.insert(path.to_owned(), always);
        assert!(
            replaced.is_none_or(|always| always.is_reached),
            "no request for {path} reached the fault before this one"
        );
    }

    /// Ends all faults and clears the list of requests; all faults must have been reached.
    #[track_caller]
    pub fn calm(&self) {
        let state = std::mem::take(&mut *self.shared.state());
        assert_reached(&state);
    }

    /// Stops the server; all faults must have been reached.
    #[track_caller]
    pub fn finish(self) {
        self.calm();
    }

    /// All requests, in order.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.state().seen.clone()
    }

    /// Sum of the bytes of bodies that were sent.
    pub fn sent(&self) -> u64 {
        self.seen().iter().map(|seen| seen.sent).sum()
    }

    /// Number of connections so far.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if !thread::panicking() {
            assert_reached(&self.shared.state());
        }
    }
}

/// Panics if a scripted fault was not reached.
#[track_caller]
fn assert_reached(state: &State) {
    let unreached = state.unreached();
    assert!(unreached.is_empty(), "no request reached these faults: {unreached:?}");
}

/// The answer to one request.
struct Answer {
    status: u16,
    headers: Vec<String>,
    body: Vec<u8>,
    /// Length in the header; without it the body is sent in chunks.
    length: Option<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test thread panicked inside")
    }

    fn serve_connection(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some((seen, index)) = self.request(&mut reader)? {
            let fault = self.fault(&seen.path);
            if !self.answer(&mut stream, &seen, index, &fault)? {
                break;
            }
        }
        Ok(())
    }

    fn request(&self, reader: &mut impl BufRead) -> io::Result<Option<(Request, usize)>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = HashMap::new();

        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }

        let seen = Request { method, path, headers, status: 0, sent: 0 };
        let mut state = self.state();
        state.seen.push(seen.clone());

        Ok(Some((seen, state.seen.len() - 1)))
    }

    fn fault(&self, path: &str) -> Fault {
        let mut state = self.state();
        if let Some(fault) = state.next.get_mut(path).and_then(VecDeque::pop_front) {
            return fault;
        }
        let Some(always) = state.always.get_mut(path) else { return Fault::Behave };
        always.is_reached = true;
        always.fault.clone()
    }

    /// Updates a recorded request before the client receives its answer.
    fn note(&self, index: usize, change: impl FnOnce(&mut Request)) {
        if let Some(seen) = self.state().seen.get_mut(index) {
            change(seen);
        }
    }

    /// Answers one request; returns `true` if the connection stays open.
    fn answer(
        &self,
        stream: &mut TcpStream,
        seen: &Request,
        index: usize,
        fault: &Fault,
    ) -> io::Result<bool> {
        match fault {
            Fault::Hangup => return Ok(false),
            Fault::RefuseRanges(None) if seen.headers.contains_key("range") => return Ok(false),
            Fault::Garbage => {
                return stream.write_all(b"SSH-2.0-not-a-web-server\r\n").map(|()| false);
            }
            _ => {}
        }

        let answer = self.prepare(seen, fault);
        self.note(index, |seen| seen.status = answer.status);
        let mut head = format!("HTTP/1.1 {} .\r\n", answer.status);
        for line in &answer.headers {
            head += &format!("{line}\r\n");
        }
        head += &match answer.length {
            Some(length) => format!("Content-Length: {length}\r\n\r\n"),
            None => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
        };
        stream.write_all(head.as_bytes())?;
        if seen.method == "HEAD" || answer.status == 304 {
            return Ok(true);
        }

        self.send(stream, index, &answer, fault)
    }

    fn prepare(&self, seen: &Request, fault: &Fault) -> Answer {
        let without_body =
            |status, headers| Answer { status, headers, body: Vec::new(), length: Some(0) };
        match fault {
            Fault::Status(status, pause) => {
                return without_body(
                    *status,
                    pause.iter().map(|pause| format!("Retry-After: {pause}")).collect(),
                );
            }
            Fault::RefuseRanges(Some(status)) if seen.headers.contains_key("range") => {
                return without_body(*status, Vec::new());
            }
            Fault::Redirect(to) => return without_body(302, vec![format!("Location: {to}")]),
            _ => {}
        }

        let inside = !seen.path.split('/').any(|component| component == "..");
        let read = fs::read(self.root.join(seen.path.trim_start_matches('/')));
        let Some(mut body) = read.ok().filter(|_| inside) else {
            return without_body(404, Vec::new());
        };
        let mut etag =
            format!("\"{:x}\"", body.iter().fold(1u64, |h, b| h.wrapping_mul(31) + u64::from(*b)));

        match fault {
            Fault::OtherEtag => etag = format!("\"other-{}", &etag[1..]),
            Fault::WeakEtag => etag = format!("W/{etag}"),
            _ => {}
        }

        let mut headers = vec!["Accept-Ranges: bytes".to_owned()];
        if *fault != Fault::NoEtag {
            headers.push(format!("ETag: {etag}"));
        }
        if seen.headers.get("if-none-match") == Some(&etag) {
            return without_body(304, headers);
        }
        let total = body.len();
        let wanted = seen.headers.get("range").filter(|_| *fault != Fault::NoRanges);
        let wanted = wanted.filter(|_| seen.headers.get("if-range").is_none_or(|tag| *tag == etag));
        let mut status = 200;

        if let Some((first, last)) =
            wanted.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
        {
            let first: usize = first.parse().expect("clients of these tests ask for FIRST-LAST");
            let last = last.parse().unwrap_or(usize::MAX).min(total.saturating_sub(1));
            if first >= total {
                return without_body(416, vec![format!("Content-Range: bytes */{total}")]);
            }
            status = 206;
            body = body[first..=last].to_vec();
            let range = format!("bytes {first}-{last}/{total}");
            headers.push(match fault {
                Fault::ContentRange(other) => format!("Content-Range: {other}"),
                _ => format!("Content-Range: {range}"),
            });
        }

        let mut length = Some(body.len() as u64);
        match *fault {
            Fault::ContentLength(other) => length = Some(other),
            Fault::Header(name, value, by) => {
                headers.push(format!("{name}: {value}"));
                body.extend(vec![b'+'; by]);
                length = Some(body.len() as u64);
            }
            Fault::Longer(by) => (length, body) = (None, [body, vec![b'+'; by]].concat()),
            Fault::Shorter(by) => {
                (length, _) = (None, body.truncate(body.len().saturating_sub(by)))
            }
            Fault::FlipFirstBit if !body.is_empty() => body[0] ^= 1,
            _ => {}
        }

        Answer { status, headers, body, length }
    }

    fn send(
        &self,
        stream: &mut TcpStream,
        index: usize,
        answer: &Answer,
        fault: &Fault,
    ) -> io::Result<bool> {
        let mut body = &answer.body[..];
        if let Fault::Cut(after) | Fault::Reset(after) | Fault::Stall(after) = *fault {
            body = &body[..body.len().min(after as usize)];
        }
        let (piece, pause) = match *fault {
            Fault::Drip(piece, pause) => (piece, pause),
            _ => (64 << 10, Duration::ZERO),
        };

        for piece in body.chunks(piece) {
            thread::sleep(pause);
            if answer.length.is_none() {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
            }
            self.note(index, |seen| seen.sent += piece.len() as u64);
            stream.write_all(piece)?;

            if answer.length.is_none() {
                stream.write_all(b"\r\n")?;
            }
        }

        match fault {
            Fault::Cut(_) | Fault::ContentLength(_) | Fault::Close => return Ok(false),
            Fault::Reset(_) => {
                // A reset discards the bytes that the client has not received yet, so they must
                // arrive first.
                thread::sleep(Duration::from_millis(100));
                rustix::net::sockopt::set_socket_linger(&*stream, Some(Duration::ZERO))?;
                return Ok(false);
            }
            Fault::Stall(_) => {
                while !self.stopped.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(20));
                }
                return Ok(false);
            }
            _ => {}
        }

        if answer.length.is_none() {
            stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(true)
    }
}
