//! What a run says of itself: one JSON object per line, from which alone the checker decides.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// True time in milliseconds, whatever the clocks of instances say.
    pub at: u64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// An instance runs, and writes as this origin.
    Start { instance: u32, origin: u64 },
    /// An instance does not run any more.
    Stop { instance: u32, how: Stop },
    /// Something is done to the shared store, or to the way of one instance to it. `loses`: what the shared store held
    /// may be gone.
    Fault { kind: String, instance: Option<u32>, loses: bool },
    /// An operation begins.
    Invoke { op: u64, instance: u32, link: Link, call: Call },
    /// It was done. `shared`: it was seen in the shared store at that moment.
    Ok { op: u64, link: Link, shared: bool, answer: Answer },
    /// Certainly nothing was done.
    Fail { op: u64, link: Link, why: Why, text: String },
    /// It may have been done, or may be done later.
    Info { op: u64, text: String },
    /// A client reads a stream of a session from now on: nothing that is said later may be missing.
    Subscribed { client: u32, s: u32, stream: String },
    /// A client goes on reading on an instance.
    Resumed { client: u32, instance: u32 },
    /// A client has received an entry.
    Delivered { client: u32, s: u32, origin: u64, seq: u64, value: u64 },
    /// A client was told that something is missing, up to these numbers.
    Gap { client: u32, upto: Vec<(u64, u64)> },
    /// All faults are over, and no client asks for anything.
    Quiet,
    /// So many sessions of an instance owe something to the shared store.
    Owes { instance: u32, sessions: u64 },
    /// Something that has a bound.
    Measure { instance: u32, name: String, value: u64, bound: u64 },
    /// Everything is healed; what follows are final reads.
    Final,
    /// So many old commands were executed once more.
    Replayed { commands: u64 },
    /// What the shared store itself has of a session.
    Shared { s: u32, doc: SharedDoc, log: Vec<SharedRun> },
}

/// How an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// In order.
    Closed,
    /// At once; its disk has all that was written.
    Killed,
    /// At once; its disk has what was synced, and a part of what was not.
    PowerCut,
    /// For good: its disk is gone.
    DiskLost,
}

/// What an instance knew of its link when an operation began or ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// Reads and writes, and pushes prove that nothing was missed.
    Leased,
    Up,
    ReadOnly,
    Down,
    /// It was not asked.
    #[default]
    Unknown,
}

impl Link {
    pub fn is_up(self) -> bool {
        matches!(self, Self::Leased | Self::Up)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    Create {
        s: u32,
        fields: Vec<(String, u64)>,
    },
    /// `None` removes the field. `fence`: only if nobody has taken the lock since.
    Put {
        s: u32,
        field: String,
        value: Option<u64>,
        fence: Option<(String, u64)>,
    },
    /// One more on a counter.
    Count {
        s: u32,
    },
    /// `trims`: what may go of the runs, below these numbers.
    Append {
        s: u32,
        stream: String,
        value: u64,
        trims: Vec<(u64, u64)>,
    },
    /// To every session.
    Broadcast {
        value: u64,
    },
    Terminate {
        s: u32,
    },
    Read {
        s: u32,
    },
    ReadLog {
        s: u32,
    },
    ReadCount {
        s: u32,
    },
    Report {
        s: u32,
        name: String,
        fence: u64,
        rev: u64,
        terminal: bool,
        value: u64,
    },
    ReadResult {
        s: u32,
        name: String,
    },
    /// `global`: among all instances.
    Lock {
        lock: String,
        global: bool,
        holder: u64,
    },
    Unlock {
        lock: String,
        holder: u64,
    },
}

impl Call {
    pub fn session(&self) -> Option<u32> {
        match self {
            Self::Create { s, .. }
            | Self::Put { s, .. }
            | Self::Count { s }
            | Self::Append { s, .. }
            | Self::Terminate { s }
            | Self::Read { s }
            | Self::ReadLog { s }
            | Self::ReadCount { s }
            | Self::Report { s, .. }
            | Self::ReadResult { s, .. } => Some(*s),
            Self::Broadcast { .. } | Self::Lock { .. } | Self::Unlock { .. } => None,
        }
    }

    /// Its name in counts and floors.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Put { fence: None, .. } => "put",
            Self::Put { .. } => "fenced_put",
            Self::Count { .. } => "count",
            Self::Append { .. } => "append",
            Self::Broadcast { .. } => "broadcast",
            Self::Terminate { .. } => "terminate",
            Self::Read { .. } => "read",
            Self::ReadLog { .. } => "read_log",
            Self::ReadCount { .. } => "read_count",
            Self::Report { .. } => "report",
            Self::ReadResult { .. } => "read_result",
            Self::Lock { .. } => "lock",
            Self::Unlock { .. } => "unlock",
        }
    }

    /// Whether a session that has ended must not do it.
    pub fn serves(&self) -> bool {
        !matches!(self, Self::Terminate { .. } | Self::ReadLog { .. } | Self::ReadResult { .. })
            && self.session().is_some()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done,
    /// Fields were written under these stamps.
    Stamped(Vec<(String, String)>),
    /// An entry got this place: origin, number.
    Placed(u64, u64),
    /// What a counter is.
    Count(u64),
    /// There is no such session, says the instance to its client.
    NotFound,
    /// The session has ended, says the instance to its client: for the client the same.
    Ended,
    /// The session lives; fields, removed ones too.
    Live(Vec<FieldRead>),
    Log(Vec<Run>),
    Reported(Reported),
    /// The report that stands: fence, revision, whether it is terminal, value.
    Outcome(Option<(u64, u64, bool, u64)>),
    Fence(u64),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldRead {
    pub name: String,
    pub value: Option<u64>,
    /// As text, whose order is the order of stamps.
    pub stamp: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reported {
    Ok,
    Stale,
    Final,
}

/// What an instance retains of one origin's run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub origin: u64,
    pub base: u64,
    pub hw: u64,
    /// Number, stream, value.
    pub entries: Vec<(u64, String, u64)>,
}

/// What the shared store has of a document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharedDoc {
    #[default]
    None,
    Ended,
    /// Names and stamps.
    Live(Vec<(String, String)>),
}

/// What the shared store has of one origin's run, in the order in which it is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SharedRun {
    pub origin: u64,
    /// The highest number, if it is noted.
    pub mark: Option<u64>,
    pub seqs: Vec<u64>,
}

/// Why something was certainly not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The instance says that there is no such session.
    Gone,
    /// Somebody else holds the lock, or took it since.
    Held,
    /// It needs the shared store, which is away.
    Away,
    /// A bound, or the instance was not there to be asked.
    Refused,
}

enum Out {
    Memory,
    File(BufWriter<File>),
}

struct State {
    ops: u64,
    records: Vec<Record>,
    out: Out,
}

/// Where a run writes its history.
pub struct History(Mutex<State>);

impl History {
    pub fn in_memory() -> Self {
        Self(Mutex::new(State { ops: 0, records: Vec::new(), out: Out::Memory }))
    }

    /// Also into a file, line by line.
    pub fn to_file(path: &Path) -> Self {
        let file = File::create(path).unwrap();
        let out = Out::File(BufWriter::new(file));
        Self(Mutex::new(State { ops: 0, records: Vec::new(), out }))
    }

    pub fn note(&self, at: u64, what: What) {
        self.write(at, |_| what);
    }

    /// Notes that an operation begins, and gives it its number.
    pub fn invoke(&self, at: u64, instance: u32, link: Link, call: Call) -> u64 {
        self.write(at, |op| What::Invoke { op, instance, link, call })
    }

    /// All that was noted.
    pub fn take(&self) -> Vec<Record> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Out::File(file) = &mut state.out {
            file.flush().unwrap();
        }
        std::mem::take(&mut state.records)
    }

    fn write(&self, at: u64, what: impl FnOnce(u64) -> What) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let op = state.ops + 1;
        let what = what(op);
        state.ops += u64::from(matches!(what, What::Invoke { .. }));
        let record = Record { at, what };
        if let Out::File(file) = &mut state.out {
            serde_json::to_writer(&mut *file, &record).unwrap();
            file.write_all(b"\n").unwrap();
        }
        state.records.push(record);
        op
    }
}

/// Writes a history down.
pub fn keep(path: &Path, records: &[Record]) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    for record in records {
        serde_json::to_writer(&mut file, record).unwrap();
        file.write_all(b"\n").unwrap();
    }
    file.flush().unwrap();
}

/// Reads what was written down. Half a line at the end is passed over.
pub fn read(path: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(path).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let lines = whole.lines().filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}
