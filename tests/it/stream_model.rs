//! Random clients of a server that is killed now and then: what was acknowledged arrives once and in order, or its loss
//! is told. `STREAM_MODEL_STEPS` makes a run longer, `STREAM_MODEL_SEED` repeats one.

use outlast::base::limits::LOG_ORIGINS;
use outlast::base::seal::random;
use serde_json::{Value, json};

use crate::support::server::Server;
use crate::support::session::{Operator, Session, Stream, is_gap, note, number_of, server_with};

/// Broadcasts have numbers from here on.
const BROADCASTS: u64 = 1_000_000;

/// Numbers by chance, the same ones for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// One who reads a stream, on one connection after the other.
#[derive(Default)]
struct Reader {
    stream: Option<Stream>,
    last: Option<String>,
    heard: Vec<u64>,
    gaps: usize,
    /// The response of a call, and how many came.
    response: Option<Value>,
    responses: usize,
    /// The server has nothing of the stream any more, and says so.
    gone: bool,
}

impl Reader {
    /// The next message, taken down; none when the connection has ended, or there is none to be had.
    async fn next(&mut self, session: &Session) -> Option<Value> {
        if self.stream.is_none() {
            match session.try_stream(self.last.as_deref()).await {
                Ok(stream) => self.stream = Some(stream),
                Err(refused) => {
                    assert_eq!(refused.status(), 400, "{}", refused.text());
                    self.gone = true;
                    return None;
                }
            }
        }
        let stream = self.stream.as_mut()?;
        let next = stream.message().await;
        // A client that has seen no id begins anew.
        if stream.last.is_some() {
            self.last.clone_from(&stream.last);
        }
        let Some((_, message)) = next else {
            self.stream = None;
            return None;
        };
        self.gaps += usize::from(is_gap(&message));
        self.heard.extend(number_of(&message));
        if message["method"].is_null() {
            self.responses += 1;
            self.response = Some(message.clone());
        }
        Some(message)
    }

    /// Reads what the connection of a dead server still holds.
    async fn last_words(&mut self, session: &Session) {
        while self.stream.is_some() && self.next(session).await.is_some() {}
    }

    /// Everything of `sent` was heard, once and in order, or a loss was told.
    fn check(&self, what: &str, sent: &[u64], mine: impl Fn(u64) -> bool) {
        let heard: Vec<u64> = self.heard.iter().copied().filter(|number| mine(*number)).collect();
        assert!(heard.windows(2).all(|pair| pair[0] < pair[1]), "{what}: not once and in order: {heard:?}");
        assert!(heard.iter().all(|number| sent.contains(number)), "{what}: never sent: {heard:?}");
        if self.gaps == 0 {
            assert_eq!(heard, sent, "{what}");
        }
    }
}

struct Running {
    id: u64,
    owner: usize,
    count: u64,
    reader: Reader,
}

struct Model {
    server: Server,
    operator: Operator,
    sessions: Vec<Session>,
    readers: Vec<Reader>,
    sent: Vec<Vec<u64>>,
    broadcasts: Vec<u64>,
    calls: Vec<Running>,
    next: u64,
    crashes: usize,
    /// There is room for everything that is said.
    roomy: bool,
}

impl Model {
    async fn new(roomy: bool) -> Self {
        let entries = if roomy { 100_000 } else { 40 };
        let server = server_with(&format!("[streams]\nmax_entries = {entries}\n")).await;
        let mut sessions = Vec::new();
        for revision in ["2025-11-25", "2025-06-18", "2025-03-26"] {
            sessions.push(Session::open_as(&server, revision, None).await);
        }
        let mut readers: Vec<Reader> = sessions.iter().map(|_| Reader::default()).collect();
        // Each has an id from the start: without one a crash may repeat messages.
        let (operator, mut broadcasts) = (Operator::of(&server), Vec::new());
        for (reader, session) in readers.iter_mut().zip(&sessions) {
            reader.stream = Some(session.stream(None).await);
        }
        broadcasts.push(BROADCASTS);
        assert!(operator.send(None, &note(BROADCASTS)).await);
        for (reader, session) in readers.iter_mut().zip(&sessions) {
            reader.next(session).await.unwrap();
        }
        let sent = vec![Vec::new(); sessions.len()];
        Self {
            server,
            operator,
            sessions,
            readers,
            sent,
            broadcasts,
            calls: Vec::new(),
            next: 0,
            crashes: 0,
            roomy,
        }
    }

    async fn send(&mut self, to: usize) -> u64 {
        self.next += 1;
        assert!(self.operator.send(Some(&self.sessions[to]), &note(self.next)).await);
        self.sent[to].push(self.next);
        self.next
    }

    async fn broadcast(&mut self) {
        self.next += 1;
        let number = BROADCASTS + self.next;
        assert!(self.operator.send(None, &note(number)).await);
        self.broadcasts.push(number);
    }

    /// Reads until what is sent now has arrived, or so many messages.
    async fn read(&mut self, who: usize, at_most: u64) {
        let marker = self.send(who).await;
        let (reader, session) = (&mut self.readers[who], &self.sessions[who]);
        for _ in 0..at_most {
            reader.next(session).await;
            if reader.heard.contains(&marker) {
                return;
            }
        }
    }

    async fn crash(&mut self, clean: bool) {
        if clean {
            assert_eq!(self.server.term().await.code(), Some(0));
        } else {
            self.server.kill();
        }
        for (reader, session) in self.readers.iter_mut().zip(&self.sessions) {
            reader.last_words(session).await;
        }
        for call in &mut self.calls {
            call.reader.last_words(&self.sessions[call.owner]).await;
        }
        self.server.restart().await;
    }

    async fn start_call(&mut self, owner: usize, count: u64, interval: u64) {
        self.next += 1;
        let arguments = json!({"count": count, "interval_ms": interval});
        let stream = self.sessions[owner].start(&json!(self.next), "emit", arguments).await;
        let mut reader = Reader { stream: Some(stream), ..Reader::default() };
        reader.next(&self.sessions[owner]).await.unwrap();
        self.calls.push(Running { id: self.next, owner, count, reader });
    }

    async fn finish_call(&mut self, at: usize) {
        let Running { id, owner, count, mut reader } = self.calls.swap_remove(at);
        while reader.response.is_none() {
            reader.next(&self.sessions[owner]).await;
            if reader.gone {
                assert!(!self.roomy, "the response of a call is gone");
                return;
            }
        }
        assert_eq!(reader.responses, 1);
        let response = reader.response.take().unwrap();
        assert_eq!(response["id"], id);
        if response["error"]["data"]["reason"] != "interrupted" {
            assert_eq!(response["result"]["content"][0]["text"], format!("emitted {count} messages"));
        }
        reader.check("a call", &(1..=count).collect::<Vec<_>>(), |_| true);
    }

    async fn step(&mut self, dice: &mut Dice) {
        let who = dice.roll(self.sessions.len() as u64) as usize;
        match dice.roll(20) {
            0..=4 => {
                for _ in 0..=dice.roll(5) {
                    self.send(who).await;
                }
            }
            5..=7 => {
                for _ in 0..=dice.roll(3) {
                    self.broadcast().await;
                }
            }
            8..=10 => self.read(who, u64::MAX).await,
            11..=13 => {
                // Breaks off in the middle.
                self.read(who, 1 + dice.roll(6)).await;
                self.readers[who].stream = None;
            }
            14 => self.readers[who].stream = None,
            15 | 16 => self.start_call(who, 1 + dice.roll(60), dice.roll(4)).await,
            17 if !self.calls.is_empty() => {
                let at = dice.roll(self.calls.len() as u64) as usize;
                self.finish_call(at).await;
            }
            17 => {}
            18 if !self.calls.is_empty() => {
                let at = dice.roll(self.calls.len() as u64) as usize;
                self.calls[at].reader.stream = None;
            }
            18 => {}
            _ => {
                self.crash(dice.roll(4) == 0).await;
                self.crashes += 1;
                // Who is away for more process starts than a log has origins loses something however much room there is.
                if self.crashes.is_multiple_of(LOG_ORIGINS - 4) {
                    self.settle().await;
                }
            }
        }
    }

    /// Everybody hears everything, and all of it is checked.
    async fn settle(&mut self) {
        while !self.calls.is_empty() {
            self.finish_call(0).await;
        }
        for who in 0..self.sessions.len() {
            // Nothing more is said: what came before this has arrived, broadcasts too.
            self.broadcast().await;
            let last = *self.broadcasts.last().unwrap();
            self.read(who, u64::MAX).await;
            while !self.readers[who].heard.contains(&last) {
                self.readers[who].next(&self.sessions[who]).await;
            }
        }
        let upto = self.broadcasts.clone();
        for (who, reader) in self.readers.iter().enumerate() {
            // The readers before the last one did not wait for the last broadcasts.
            let heard = reader.heard.iter().copied().filter(|number| *number >= BROADCASTS).max().unwrap();
            let owed: Vec<u64> = upto.iter().copied().filter(|number| *number <= heard).collect();
            assert!(upto.len() - owed.len() < self.sessions.len());
            assert!(!self.roomy || reader.gaps == 0, "a gap without a loss");
            reader.check("broadcasts", &owed, |number| number >= BROADCASTS);
            reader.check("messages", &self.sent[who], |number| number < BROADCASTS);
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "says how a run that failed is repeated")]
async fn random_clients_of_a_server_that_crashes_miss_nothing_without_being_told() {
    let seed = setting("STREAM_MODEL_SEED").unwrap_or_else(|| u64::from_le_bytes(random()));
    let steps = setting("STREAM_MODEL_STEPS").unwrap_or(60);
    eprintln!("STREAM_MODEL_SEED={seed} STREAM_MODEL_STEPS={steps}");
    // With room for everything nothing may be lost; with little, no loss may go untold.
    for roomy in [true, false] {
        let mut dice = Dice(seed);
        let mut model = Model::new(roomy).await;
        for _ in 0..steps {
            model.step(&mut dice).await;
        }
        model.settle().await;
    }
}
