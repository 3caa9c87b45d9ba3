//! The outbox of a call that several wait for: what the tool says goes to all of them, what it asks to one.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::base::limits::JOIN_RELAY_WAIT;
use crate::rpc::error::{INTERNAL, RpcError};
use crate::rpc::message::notification;
use crate::rpc::object::{Change, Object};
use crate::tools::{BoxFuture, Call, LogLevel, Outbox};

/// Those who wait for one call.
pub(super) struct Company {
    /// Who came first: the call has the form that this one wants.
    first: Arc<dyn Outbox>,
    members: Mutex<Members>,
    /// Somebody was asked, or may have been: who comes and goes changes nothing about that.
    asked: AtomicBool,
}

#[derive(Default)]
struct Members {
    next: u64,
    all: Vec<Member>,
    /// The call is given up: nobody comes any more.
    closed: bool,
}

#[derive(Clone)]
struct Member {
    number: u64,
    out: Arc<dyn Outbox>,
    /// Its own progress token.
    token: Option<Box<RawValue>>,
    /// It takes nothing; the others are not held up for it any more.
    behind: bool,
}

impl Company {
    /// Of one, until others come.
    pub(super) fn of(first: &Call) -> Arc<Self> {
        Arc::new(Self {
            first: Arc::clone(&first.out),
            members: Mutex::default(),
            asked: AtomicBool::new(false),
        })
    }

    /// Somebody more waits. Returns a number to leave with; none: the call was given up.
    pub(super) fn enter(&self, call: &Call) -> Option<u64> {
        let mut members = self.lock();
        if members.closed {
            return None;
        }
        members.next += 1;
        let number = members.next;
        members.all.push(Member {
            number,
            out: Arc::clone(&call.out),
            token: call.progress_token.clone(),
            behind: false,
        });
        Some(number)
    }

    /// Somebody waits no more. Says how many are left, and how many ever came.
    pub(super) fn leave(&self, number: u64) -> (usize, u64) {
        let mut members = self.lock();
        members.all.retain(|member| member.number != number);
        (members.all.len(), members.next)
    }

    /// Gives the call up, if nobody waits for it and no more than `came` ever did. Whether it is given up.
    pub(super) fn close_if_empty(&self, came: u64) -> bool {
        let mut members = self.lock();
        members.closed |= members.all.is_empty() && members.next == came;
        members.closed
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn present(&self) -> Vec<Member> {
        self.lock().all.iter().filter(|member| !member.behind).cloned().collect()
    }

    fn any(&self, is: impl Fn(&dyn Outbox) -> bool) -> bool {
        self.lock().all.iter().any(|member| is(&*member.out))
    }

    fn has(&self, number: u64) -> bool {
        self.lock().all.iter().any(|member| member.number == number)
    }

    fn falls_behind(&self, number: u64) {
        if let Some(member) = self.lock().all.iter_mut().find(|member| member.number == number) {
            member.behind = true;
        }
    }
}

/// What one member is told of a message.
fn told(message: &Bytes, member: &Member) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        method: Cow<'a, str>,
        #[serde(borrow)]
        params: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Logged {
        level: LogLevel,
    }
    let Ok(Message { method, params }) = serde_json::from_slice::<Message<'_>>(message) else {
        return Some(message.clone());
    };
    match (&*method, params) {
        ("notifications/progress", Some(params)) => {
            let token = member.token.as_ref()?;
            let params = Object::parse(params.get()).ok()?.with(|key, _| match key {
                "progressToken" => Change::Set(token.get().to_owned()),
                _ => Change::Keep,
            });
            Some(notification("notifications/progress", &params))
        }
        ("notifications/message", Some(params)) => {
            let wanted = serde_json::from_str::<Logged>(params.get())
                .is_ok_and(|logged| !member.out.wants_log(logged.level));
            (!wanted).then(|| message.clone())
        }
        _ => Some(message.clone()),
    }
}

impl Outbox for Company {
    fn notify(&self, message: Bytes) -> BoxFuture<'_, Result<(), RpcError>> {
        Box::pin(async move {
            let members = self.present();
            let alone = members.len() == 1;
            let telling = members.iter().filter_map(|member| {
                let message = told(&message, member)?;
                Some(async move {
                    let telling = member.out.notify(message);
                    match alone {
                        // The tool waits for a client that is behind, as it does for any.
                        true => drop(telling.await),
                        false => {
                            if !matches!(tokio::time::timeout(JOIN_RELAY_WAIT, telling).await, Ok(Ok(()))) {
                                self.falls_behind(member.number);
                            }
                        }
                    }
                })
            });
            join_all(telling).await;
            Ok(())
        })
    }

    fn ask(&self, method: &str, params: Box<RawValue>) -> BoxFuture<'_, Result<Box<RawValue>, RpcError>> {
        let method = method.to_owned();
        self.asked.store(true, Ordering::Release);
        Box::pin(async move {
            let mut asked = 0;
            loop {
                // Whoever can be asked at once, else who came first of those that were not asked yet.
                let next = {
                    let members = self.lock();
                    let left = || members.all.iter().filter(|member| member.number > asked);
                    left().find(|member| member.out.can_ask()).or_else(|| left().next()).cloned()
                };
                let Some(member) = next else {
                    return Err(RpcError::new(INTERNAL, "nobody waits for this call any more"));
                };
                let answer = member.out.ask(&method, params.clone()).await;
                // One that went away meanwhile is no answer.
                if answer.is_ok() || self.has(member.number) {
                    return answer;
                }
                asked = member.number;
            }
        })
    }

    fn wants_log(&self, level: LogLevel) -> bool {
        self.any(|out| out.wants_log(level))
    }

    fn can_ask(&self) -> bool {
        self.any(Outbox::can_ask)
    }

    fn wanted_to_ask(&self) -> bool {
        self.asked.load(Ordering::Acquire) || self.any(Outbox::wanted_to_ask)
    }

    fn may_have_asked(&self) {
        self.asked.store(true, Ordering::Release);
        self.lock().all.iter().for_each(|member| member.out.may_have_asked());
    }

    fn queued(&self, waits: bool) {
        self.lock().all.iter().for_each(|member| member.out.queued(waits));
    }

    fn task_begun(&self) {
        self.lock().all.iter().for_each(|member| member.out.task_begun());
    }

    fn is_task(&self) -> bool {
        self.any(Outbox::is_task)
    }

    fn modern_capabilities(&self) -> Option<&RawValue> {
        self.first.modern_capabilities()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Client, call_of};
    use super::*;
    use crate::tools::answer::raw;

    fn progress(n: u64) -> Bytes {
        let params = format!("{{\"progressToken\":\"all\",\"progress\":{n}}}");
        notification("notifications/progress", &params)
    }

    #[tokio::test]
    async fn each_hears_under_its_own_token_and_one_who_is_behind_holds_the_others_up_for_a_moment_only() {
        let clients: Vec<Arc<Client>> = (0..3).map(|_| Arc::default()).collect();
        let calls = [Some("\"one\""), Some("2"), None].into_iter().zip(&clients);
        let calls: Vec<Call> = calls.map(|(token, client)| call_of("p", Arc::clone(client), token)).collect();
        let company = Company::of(&calls[0]);
        let numbers: Vec<u64> = calls.iter().map(|call| company.enter(call).unwrap()).collect();
        company.notify(progress(1)).await.unwrap();
        assert!(
            clients[0].told()[0].contains("\"progressToken\":\"one\"")
                && clients[1].told()[0].contains(":2,")
        );
        assert_eq!(clients[2].told(), Vec::<String>::new());
        for (level, heard) in [("info", 0), ("error", 1)] {
            let log = notification("notifications/message", &format!("{{\"level\":\"{level}\",\"data\":1}}"));
            company.notify(log).await.unwrap();
            assert_eq!(clients[2].told().len(), heard, "{level}");
        }
        let held = clients[0].held.lock().await;
        for n in 2..=5 {
            company.notify(progress(n)).await.unwrap();
        }
        drop(held);
        company.notify(progress(6)).await.unwrap();
        assert_eq!((clients[0].told().len(), clients[1].told().len()), (2, 7), "the first one is behind");
        assert_eq!((company.leave(numbers[0]), company.leave(numbers[1])), ((2, 3), (1, 3)));
        assert!(!company.close_if_empty(3) && company.leave(numbers[2]) == (0, 3));
        // Somebody came again and left: the time of the one before is not theirs.
        let again = company.enter(&calls[0]).unwrap();
        assert!(!company.close_if_empty(3) && company.leave(again) == (0, 4) && !company.close_if_empty(3));
        assert!(company.close_if_empty(4));
        assert_eq!(company.enter(&calls[0]), None, "it is given up");
    }

    #[tokio::test]
    async fn a_question_goes_to_one_who_can_be_asked() {
        let (silent, ready) =
            (Arc::<Client>::default(), Arc::new(Client { answer: Some("7"), ..Client::default() }));
        let company = Company::of(&call_of("p", Arc::clone(&silent), None));
        company.enter(&call_of("p", silent, None)).unwrap();
        let params = || raw("{}".into());
        assert!(!company.can_ask());
        company.enter(&call_of("p", ready, None)).unwrap();
        let outcome = company.ask("roots/list", params()).await.unwrap();
        assert_eq!(outcome.get(), "7");
        assert!(company.wanted_to_ask(), "whoever of them was asked, the call has asked");
        let nobody = Company::of(&call_of("p", Arc::default(), None));
        assert!(nobody.ask("roots/list", params()).await.is_err());
    }
}
