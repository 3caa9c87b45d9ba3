//! The questions of a running call to a client that can only be asked by the answer to its request.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::base::limits::{ASKS_PER_CALL, ASKS_TOGETHER};
use crate::base::seal::{hex, sha256};
use crate::mcp::capability::{ClientCapabilities, required_for};
use crate::mcp::input::{Answers, fits, input_required};
use crate::rpc::error::{INTERNAL, MISSING_CAPABILITY, RpcError};
use crate::rpc::object::{Change, Object};
use crate::state::task;
use crate::tools::answer::raw;

/// In `_meta` of a question: the name that it is to have among `inputRequests`.
const KEY: &str = "outlast/inputKey";
/// A name of a question that a hosted server may choose, bytes; longer ones are replaced.
const KEY_BYTES: usize = 128;

/// The client's result or its error.
pub(in crate::engine) type Answer = Result<Box<RawValue>, RpcError>;

/// The questions of one call.
#[derive(Debug)]
pub(in crate::engine) struct Questions {
    state: Mutex<State>,
    /// There is a question more or less than before.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    client: ClientCapabilities,
    /// The client gets questions in the form of 2026-07-28.
    modern: bool,
    /// Answers to questions that were not asked yet in this run of the call.
    known: Answers,
    /// The same, which were taken in an earlier run of the call: they count whatever they are.
    taken: HashMap<String, Answer>,
    open: Vec<Question>,
    /// Answers that were handed on, in their order.
    given: Vec<(String, Box<RawValue>)>,
    /// How often each name was wanted.
    names: HashMap<String, usize>,
    /// What the client would have had to declare.
    missed: ClientCapabilities,
}

#[derive(Debug)]
struct Question {
    name: String,
    method: String,
    /// As the client gets them.
    params: Box<RawValue>,
    answer: oneshot::Sender<Answer>,
}

impl Questions {
    pub(in crate::engine) fn new(client: ClientCapabilities, known: Answers) -> Self {
        Self::of(client, true, known, HashMap::new())
    }

    /// Those of a task. `modern`: it was made under 2026-07-28. `taken`: answers of an earlier run of it.
    pub(in crate::engine) fn of_task(
        client: ClientCapabilities,
        modern: bool,
        taken: HashMap<String, Answer>,
    ) -> Self {
        Self::of(client, modern, Answers::new(), taken)
    }

    fn of(client: ClientCapabilities, modern: bool, known: Answers, taken: HashMap<String, Answer>) -> Self {
        Self {
            state: Mutex::new(State {
                client,
                modern,
                known,
                taken,
                open: Vec::new(),
                given: Vec::new(),
                names: HashMap::new(),
                missed: ClientCapabilities::default(),
            }),
            changed: Notify::new(),
        }
    }

    /// Asks, and waits for the answer through as many rounds as it takes.
    pub(in crate::engine) async fn ask(&self, method: &str, params: &RawValue) -> Answer {
        let (name, answer) = {
            let mut state = self.lock();
            if !state.allows(method, params) {
                return Err(state.refuse(method, params));
            }
            if state.open.len() >= ASKS_PER_CALL {
                return Err(RpcError::new(INTERNAL, "this call waits for too many answers already"));
            }
            let name = state.name(method, params);
            let params = if state.modern { for_client(params) } else { params.to_owned() };
            if let Some(taken) = state.taken.remove(&name) {
                return taken;
            }
            if let Some(known) = state.known.remove(&name).filter(|known| fits(method, &params, known)) {
                state.given.push((name, known.clone()));
                return Ok(known);
            }
            let (answer, answered) = oneshot::channel();
            state.open.push(Question { name: name.clone(), method: method.to_owned(), params, answer });
            (name, answered)
        };
        self.changed.notify_one();
        let _given_up = GivenUp { questions: self, name: &name };
        answer.await.unwrap_or_else(|_| Err(RpcError::new(INTERNAL, "the call is over")))
    }

    /// Waits until something is asked and no more is likely to be asked at the same time.
    pub(in crate::engine) async fn asked(&self) {
        loop {
            if self.lock().open.is_empty() {
                self.changed.notified().await;
            } else if timeout(ASKS_TOGETHER, self.changed.notified()).await.is_err()
                && !self.lock().open.is_empty()
            {
                return;
            }
        }
    }

    /// The result that asks everything that is open.
    pub(super) fn input_required(&self, state: &str) -> Box<RawValue> {
        let questions = self.lock();
        let open = questions.open.iter();
        raw(input_required(open.map(|it| (it.name.as_str(), it.method.as_str(), it.params.get())), state))
    }

    /// Hands the answers of a retry on. What is missing, or no answer to its question, stays open; answers to nothing
    /// that is open are left alone. `client`: what the retry declares, which may be less than the request did.
    pub(in crate::engine) fn resume(&self, client: ClientCapabilities, mut answers: Answers) {
        let mut state = self.lock();
        state.client = client;
        for question in std::mem::take(&mut state.open) {
            let fitting =
                answers.remove(&question.name).filter(|it| fits(&question.method, &question.params, it));
            let outcome = match fitting {
                Some(answer) => {
                    state.given.push((question.name, answer.clone()));
                    Ok(answer)
                }
                None if state.allows(&question.method, &question.params) => {
                    state.open.push(question);
                    continue;
                }
                None => Err(state.refuse(&question.method, &question.params)),
            };
            // Who does not wait any more does not need it.
            let _ = question.answer.send(outcome);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Hands one answer on as it is. False when nothing of this name waits for one.
    pub(in crate::engine) fn settle(&self, name: &str, outcome: Answer) -> bool {
        let question = {
            let mut state = self.lock();
            let at = state.open.iter().position(|question| question.name == name);
            at.map(|at| state.open.remove(at))
        };
        self.changed.notify_one();
        question.is_some_and(|question| question.answer.send(outcome).is_ok())
    }

    /// What waits for an answer.
    pub(in crate::engine) fn open(&self) -> Vec<task::Question> {
        let open = |it: &Question| task::Question {
            key: it.name.clone(),
            method: it.method.clone(),
            params: it.params.get().to_owned(),
        };
        self.lock().open.iter().map(open).collect()
    }

    /// Waits until something else waits than what was `shown`, and no more is likely to be asked at the same time.
    pub(in crate::engine) async fn differ(&self, shown: &[task::Question]) -> Vec<task::Question> {
        loop {
            let open = self.open();
            if open == shown {
                self.changed.notified().await;
            } else if timeout(ASKS_TOGETHER, self.changed.notified()).await.is_err() {
                return open;
            }
        }
    }

    /// All answers of this call so far.
    pub(super) fn given(&self) -> Vec<(String, Box<RawValue>)> {
        self.lock().given.clone()
    }

    /// What could not be asked because the client did not declare it, as an error; none when all could.
    pub(in crate::engine) fn missed(&self) -> Option<RpcError> {
        let missed = self.lock().missed;
        (missed != ClientCapabilities::default()).then(|| {
            let required = missed.to_json();
            RpcError::new(
                MISSING_CAPABILITY,
                format!("this needs client capabilities that the request does not declare: {required}"),
            )
            .with_data(&raw(format!("{{\"requiredCapabilities\":{required}}}")))
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn allows(&self, method: &str, params: &RawValue) -> bool {
        self.client.allow(method, wants_url(params.get()))
    }

    fn refuse(&mut self, method: &str, params: &RawValue) -> RpcError {
        match method {
            "sampling/createMessage" => self.missed.sampling = true,
            "roots/list" => self.missed.roots = true,
            "elicitation/create" if wants_url(params.get()) => self.missed.elicitation_url = true,
            _ => self.missed.elicitation_form = true,
        }
        undeclared(method)
    }

    /// A name that no other question of this call has. The same question has the same name when the call is run again:
    /// answers must never meet another question than theirs.
    fn name(&mut self, method: &str, params: &RawValue) -> String {
        let chosen = chosen_name(params).unwrap_or_else(|| {
            let kind = method.split('/').next().unwrap_or_default();
            let hash = hex(&sha256(format!("{method} {params}").as_bytes()));
            format!("{kind}-{}", hash.get(..12).unwrap_or_default())
        });
        let uses = self.names.entry(chosen.clone()).or_default();
        *uses += 1;
        if *uses == 1 { chosen } else { format!("{chosen}#{uses}") }
    }
}

/// Forgets a question when nobody waits for its answer any more.
struct GivenUp<'a> {
    questions: &'a Questions,
    name: &'a str,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.questions.lock().open.retain(|question| question.name != self.name);
        self.questions.changed.notify_one();
    }
}

/// The error for who asks a client for something that it did not declare.
pub(in crate::engine) fn undeclared(method: &str) -> RpcError {
    RpcError::new(MISSING_CAPABILITY, format!("the client did not declare the capability for {method}"))
        .with_data(&raw(format!("{{\"requiredCapabilities\":{}}}", required_for(method))))
}

/// Whether an elicitation wants a URL opened.
pub(in crate::engine) fn wants_url(params: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Params {
        mode: Option<String>,
    }
    serde_json::from_str::<Params>(params).is_ok_and(|params| params.mode.as_deref() == Some("url"))
}

fn chosen_name(params: &RawValue) -> Option<String> {
    let params = Object::parse(params.get()).ok()?;
    let meta = Object::parse(params.get("_meta")?.get()).ok()?;
    let name: String = serde_json::from_str(meta.get(KEY)?.get()).ok()?;
    (!name.is_empty() && name.len() <= KEY_BYTES).then_some(name)
}

/// The params of a legacy server's question in the form of 2026-07-28: there a question has no progress, is no task,
/// and a URL has no id of its own.
pub(in crate::engine) fn for_client(params: &RawValue) -> Box<RawValue> {
    let Ok(object) = Object::parse(params.get()) else { return raw("{}".into()) };
    raw(object.with(|member, value| match member {
        "elicitationId" | "task" => Change::Drop,
        "_meta" => match Object::parse(value.get()) {
            Ok(meta) => {
                let rest = meta.with(|key, _| match key {
                    KEY | "progressToken" | "io.modelcontextprotocol/related-task" => Change::Drop,
                    _ => Change::Keep,
                });
                if rest == "{}" { Change::Drop } else { Change::Set(rest) }
            }
            Err(_) => Change::Keep,
        },
        _ => Change::Keep,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = r#"{"message":"?","requestedSchema":{"type":"object","properties":{}}}"#;

    fn known(pairs: &[(&str, &str)]) -> Answers {
        pairs.iter().map(|(name, answer)| ((*name).to_owned(), raw((*answer).to_owned()))).collect()
    }

    #[test]
    fn the_client_sees_a_question_without_what_belongs_to_the_host() {
        for (given, seen) in [
            (r#"{"message":"?","n":1e400,"_meta":{"outlast/inputKey":"k"}}"#, r#"{"message":"?","n":1e400}"#),
            (r#"{"_meta":{"outlast/inputKey":"k","x":1.0},"task":{}}"#, r#"{"_meta":{"x":1.0}}"#),
            (
                r#"{"mode":"url","url":"https://x","elicitationId":"e"}"#,
                r#"{"mode":"url","url":"https://x"}"#,
            ),
            ("[]", "{}"),
        ] {
            assert_eq!(for_client(&raw(given.into())).get(), seen);
        }
    }

    #[tokio::test]
    async fn a_known_answer_is_given_at_once_and_one_that_does_not_fit_is_not() {
        let params = raw(r#"{"message":"?","_meta":{"outlast/inputKey":"k"}}"#.into());
        let accept = r#"{"action":"accept","content":{}}"#;
        let questions = Questions::new(ClientCapabilities::ALL, known(&[("k", accept), ("k#2", "5")]));
        assert_eq!(questions.ask("elicitation/create", &params).await.unwrap().get(), accept);
        let again = questions.ask("elicitation/create", &params);
        let answered = async {
            questions.asked().await;
            assert!(questions.input_required("s").get().contains("\"k#2\""));
            questions.resume(ClientCapabilities::ALL, known(&[("k", accept)]));
            questions.asked().await;
            questions.resume(ClientCapabilities::ALL, known(&[("k#2", r#"{"action":"cancel"}"#)]));
        };
        let (answer, ()) = tokio::join!(again, answered);
        assert_eq!(answer.unwrap().get(), r#"{"action":"cancel"}"#);
        assert_eq!(questions.given().len(), 2);
        assert!(questions.missed().is_none());
    }

    #[tokio::test]
    async fn a_kind_that_a_later_round_does_not_declare_is_refused_then() {
        let questions = Questions::new(ClientCapabilities::ALL, Answers::new());
        let (form, no_roots) =
            (raw(FORM.into()), ClientCapabilities { roots: false, ..ClientCapabilities::ALL });
        let later = async {
            questions.asked().await;
            questions.resume(no_roots, Answers::new());
            questions.asked().await;
            let open = questions.input_required("s");
            assert!(open.get().contains("elicitation-") && !open.get().contains("roots/list"), "{open}");
            questions.resume(no_roots, Answers::new());
        };
        let form = questions.ask("elicitation/create", &form);
        let roots = raw("{}".into());
        tokio::select! {
            _ = form => panic!("nobody answered it"),
            (roots, ()) = async { tokio::join!(questions.ask("roots/list", &roots), later) } => {
                assert_eq!(roots.unwrap_err().code, MISSING_CAPABILITY);
            }
        }
        let missed = questions.missed().unwrap().data.unwrap();
        assert_eq!(missed.get(), r#"{"requiredCapabilities":{"roots":{}}}"#);
    }

    #[tokio::test]
    async fn a_question_that_is_given_up_is_not_asked() {
        let questions = Questions::new(ClientCapabilities::ALL, Answers::new());
        let form = raw(FORM.into());
        tokio::select! {
            biased;
            _ = questions.ask("elicitation/create", &form) => panic!("nobody answered it"),
            () = tokio::task::yield_now() => {}
        }
        assert!(timeout(ASKS_TOGETHER * 2, questions.asked()).await.is_err());
        assert_eq!(
            questions.input_required("s").get(),
            r#"{"resultType":"input_required","inputRequests":{},"requestState":"s"}"#
        );
    }
}
