//! What stands between one instance and the servers of Redis: it passes bytes on, and on demand cuts, delays, trickles,
//! swallows answers or pushes. One listener per server; addresses that servers tell are told as those of the listeners.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::frames::Frames;

/// What is wrong with the way of one instance.
#[derive(Debug, Default)]
pub struct Ills {
    /// Nobody answers: connections are closed and refused.
    pub cut: AtomicBool,
    /// Connections stay, and nothing comes through.
    pub half_open: AtomicBool,
    /// Each piece comes so much later, milliseconds.
    pub slow_ms: AtomicU64,
    /// Answers come in pieces of so many bytes; 0: whole.
    pub trickle: AtomicU64,
    /// The next so many answers are lost, and their connections with them.
    pub lose_replies: AtomicU64,
    /// Pushes do not come.
    pub deaf: AtomicBool,
}

impl Ills {
    pub fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
        self.half_open.store(false, Ordering::SeqCst);
        self.slow_ms.store(0, Ordering::SeqCst);
        self.trickle.store(0, Ordering::SeqCst);
        self.lose_replies.store(0, Ordering::SeqCst);
        self.deaf.store(false, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Open {
    streams: Vec<(TcpStream, TcpStream)>,
}

/// The way of one instance to all servers.
pub struct Proxy {
    pub ills: Arc<Ills>,
    /// Server's port and listener's port.
    pub ports: Vec<(u16, u16)>,
    open: Arc<Mutex<Open>>,
    ended: Arc<AtomicBool>,
    pub lost_replies: Arc<AtomicU64>,
    pub dropped_pushes: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Passing {
    ills: Arc<Ills>,
    map: Arc<Vec<(String, String)>>,
    ended: Arc<AtomicBool>,
    lost_replies: Arc<AtomicU64>,
    dropped_pushes: Arc<AtomicU64>,
}

impl Proxy {
    /// Listeners for these servers, all on 127.0.0.1.
    pub fn start(servers: &[u16]) -> Self {
        let listeners: Vec<(u16, TcpListener)> =
            servers.iter().map(|port| (*port, listener(*port))).collect();
        let ports: Vec<(u16, u16)> =
            listeners.iter().map(|(port, own)| (*port, own.local_addr().unwrap().port())).collect();
        let proxy = Self {
            ills: Arc::default(),
            ports: ports.clone(),
            open: Arc::default(),
            ended: Arc::default(),
            lost_replies: Arc::default(),
            dropped_pushes: Arc::default(),
        };
        let passing = Passing {
            ills: Arc::clone(&proxy.ills),
            map: Arc::new(ports.iter().map(|(of, own)| (of.to_string(), own.to_string())).collect()),
            ended: Arc::clone(&proxy.ended),
            lost_replies: Arc::clone(&proxy.lost_replies),
            dropped_pushes: Arc::clone(&proxy.dropped_pushes),
        };
        for (port, listener) in listeners {
            let (passing, open) = (passing.clone(), Arc::clone(&proxy.open));
            std::thread::spawn(move || accept(&listener, port, &passing, &open));
        }
        proxy
    }

    /// A URL of servers as it is through here.
    pub fn url(&self, url: &str) -> String {
        let mut url = url.to_owned();
        for (of, own) in &self.ports {
            url = url.replace(&format!(":{of}"), &format!(":{own}"));
        }
        url
    }

    /// Ends all connections that are open.
    pub fn drop_connections(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for (a, b) in open.streams.drain(..) {
            let _ = a.shutdown(Shutdown::Both);
            let _ = b.shutdown(Shutdown::Both);
        }
    }

    pub fn cut(&self) {
        self.ills.cut.store(true, Ordering::SeqCst);
        self.drop_connections();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        self.drop_connections();
        for (_, own) in &self.ports {
            // Wakes the listener, which then ends.
            let _ = TcpStream::connect(("127.0.0.1", *own));
        }
    }
}

/// On a port whose number is as long as the server's: what is told in its place has the same length.
fn listener(server: u16) -> TcpListener {
    for _ in 0..200 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if port.to_string().len() == server.to_string().len() {
            return listener;
        }
    }
    panic!("no port as long as {server}");
}

fn accept(listener: &TcpListener, server: u16, passing: &Passing, open: &Arc<Mutex<Open>>) {
    for client in listener.incoming() {
        if passing.ended.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        if passing.ills.cut.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)) else { continue };
        let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
        let pair = |a: &TcpStream, b: &TcpStream| Some((a.try_clone().ok()?, b.try_clone().ok()?));
        let (Some(kept), Some(forth), Some(back)) =
            (pair(&client, &upstream), pair(&client, &upstream), pair(&upstream, &client))
        else {
            continue;
        };
        {
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            open.streams.retain(|(a, _)| a.peer_addr().is_ok());
            open.streams.push(kept);
        }
        let (one, two) = (passing.clone(), passing.clone());
        std::thread::spawn(move || pass(&one, forth, None));
        std::thread::spawn(move || pass(&two, back, Some(Frames::default())));
    }
}

/// Passes bytes on until one side ends. `frames`: these are answers.
fn pass(passing: &Passing, (mut from, mut to): (TcpStream, TcpStream), mut frames: Option<Frames>) {
    let mut buffer = vec![0; 64 * 1024];
    let _ = from.set_read_timeout(Some(Duration::from_millis(200)));
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if passing.ended.load(Ordering::SeqCst) || passing.ills.cut.load(Ordering::SeqCst) {
                    break;
                }
                continue;
            }
            Err(_) => break,
        };
        let ills = &passing.ills;
        while ills.half_open.load(Ordering::SeqCst) && !passing.ended.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if ills.cut.load(Ordering::SeqCst) {
            break;
        }
        let slow = ills.slow_ms.load(Ordering::SeqCst);
        if slow > 0 {
            std::thread::sleep(Duration::from_millis(slow));
        }
        let piece = buffer.get(..read).unwrap_or_default();
        let Some(frames) = &mut frames else {
            if to.write_all(piece).is_err() {
                break;
            }
            continue;
        };
        frames.take_in(piece);
        let mut out = Vec::with_capacity(read);
        let mut lost = false;
        while let Some(frame) = frames.next() {
            let push = frame.starts_with(b">");
            if push && ills.deaf.load(Ordering::SeqCst) && is_invalidation(&frame) {
                passing.dropped_pushes.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let lose = |left: u64| left.checked_sub(1);
            if !push && ills.lose_replies.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose).is_ok() {
                passing.lost_replies.fetch_add(1, Ordering::Relaxed);
                lost = true;
                break;
            }
            out.extend_from_slice(&translate(frame, &passing.map));
        }
        let trickle = ills.trickle.load(Ordering::SeqCst) as usize;
        let written = if trickle == 0 {
            to.write_all(&out)
        } else {
            out.chunks(trickle).try_for_each(|piece| {
                std::thread::sleep(Duration::from_millis(1));
                to.write_all(piece)
            })
        };
        if written.is_err() || lost {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn is_invalidation(frame: &[u8]) -> bool {
    frame.windows(10).take(24).any(|part| part == b"invalidate")
}

/// Ports of servers as those of the listeners, where they follow the address.
fn translate(frame: Vec<u8>, map: &[(String, String)]) -> Vec<u8> {
    if !frame.windows(9).any(|part| part == b"127.0.0.1") {
        return frame;
    }
    let mut frame = frame;
    for at in 0..frame.len() {
        let Some(rest) = frame.get(at..).filter(|rest| rest.starts_with(b"127.0.0.1")) else { continue };
        // The next number of five digits or so, a few bytes behind.
        let after = rest.get(9..40.min(rest.len())).unwrap_or_default();
        let found = map.iter().find_map(|(of, own)| {
            let place = after.windows(of.len()).position(|part| part == of.as_bytes())?;
            Some((place, own))
        });
        if let Some((place, own)) = found {
            let start = at + 9 + place;
            if let Some(slot) = frame.get_mut(start..start + own.len()) {
                slot.copy_from_slice(own.as_bytes());
            }
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_servers_tell_are_those_of_the_proxy_and_nothing_else_changes() {
        let map = vec![("31001".to_owned(), "41001".to_owned())];
        for (told, heard) in [
            ("-MOVED 77 127.0.0.1:31001\r\n", "-MOVED 77 127.0.0.1:41001\r\n"),
            ("*2\r\n$9\r\n127.0.0.1\r\n:31001\r\n", "*2\r\n$9\r\n127.0.0.1\r\n:41001\r\n"),
            ("*2\r\n$9\r\n127.0.0.1\r\n$5\r\n31001\r\n", "*2\r\n$9\r\n127.0.0.1\r\n$5\r\n41001\r\n"),
            ("$5\r\n31001\r\n", "$5\r\n31001\r\n"),
        ] {
            assert_eq!(translate(told.as_bytes().to_vec(), &map), heard.as_bytes());
        }
    }
}
