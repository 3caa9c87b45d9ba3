//! Equal calls at one moment.

use super::*;

#[tokio::test]
async fn equal_calls_that_miss_together_are_made_once() {
    let bench = Arc::new(Bench::new());
    let rules = Arc::new(rules_of(READ_ONLY, facts(60)).unwrap());
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let ask = |principal: &'static str| {
        let (bench, rules, gate) = (Arc::clone(&bench), Arc::clone(&rules), Arc::clone(&gate));
        tokio::spawn(async move {
            let make = |_| -> BoxFuture<'static, Outcome> {
                Box::pin(async move {
                    gate.acquire().await.unwrap().forget();
                    Ok(raw("{}".into()))
                })
            };
            bench.run(&rules, call_of(principal, "{}"), make).await
        })
    };
    let mut calls: Vec<_> = (0..50).map(|_| ask("ann")).collect();
    calls.push(ask("bob"));
    bench.settle().await;
    gate.add_permits(2);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(bench.made(), 2);
    assert_eq!(bench.results.stats().joined, 49);
}

#[tokio::test]
async fn when_the_one_who_makes_a_call_leaves_another_one_makes_it() {
    let bench = Arc::new(Bench::new());
    let rules = Arc::new(rules_of(READ_ONLY, facts(60)).unwrap());
    let ask = |result: Option<&'static str>| {
        let (bench, rules) = (Arc::clone(&bench), Arc::clone(&rules));
        tokio::spawn(async move {
            let make = move |_| -> BoxFuture<'static, Outcome> {
                match result {
                    Some(result) => Box::pin(async move { Ok(raw(result.into())) }),
                    None => Box::pin(std::future::pending()),
                }
            };
            bench.run(&rules, call_of("ann", "{}"), make).await
        })
    };
    let first = ask(None);
    while bench.made() < 1 {
        tokio::task::yield_now().await;
    }
    let others = [ask(Some("{}")), ask(Some("{}")), ask(Some("{}"))];
    bench.settle().await;
    first.abort();
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!(bench.made(), 2);
}

#[tokio::test]
async fn a_failure_is_nobodys_but_the_one_who_had_it() {
    let bench = Arc::new(Bench::new());
    let rules = Arc::new(rules_of(READ_ONLY, facts(60)).unwrap());
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let ask = |fails: bool| {
        let (bench, rules, gate) = (Arc::clone(&bench), Arc::clone(&rules), Arc::clone(&gate));
        tokio::spawn(async move {
            let make = move |_| -> BoxFuture<'static, Outcome> {
                Box::pin(async move {
                    gate.acquire().await.unwrap().forget();
                    if fails { Err(RpcError::internal("x")) } else { Ok(raw("{}".into())) }
                })
            };
            bench.run(&rules, call_of("ann", "{}"), make).await
        })
    };
    let first = ask(true);
    while bench.made() < 1 {
        tokio::task::yield_now().await;
    }
    let others = [ask(false), ask(false)];
    bench.settle().await;
    gate.add_permits(3);
    assert!(first.await.unwrap().is_err());
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!(bench.made(), 3);
}

#[tokio::test]
async fn who_waits_for_another_ones_call_can_be_cancelled() {
    let bench = Arc::new(Bench::new());
    let rules = Arc::new(rules_of(READ_ONLY, facts(60)).unwrap());
    let cancel = CancellationToken::new();
    let ask = |cancel: CancellationToken| {
        let (bench, rules) = (Arc::clone(&bench), Arc::clone(&rules));
        tokio::spawn(async move {
            let call = Call { cancel, ..call_of("ann", "{}") };
            bench.run(&rules, call, |_| Box::pin(std::future::pending())).await
        })
    };
    let first = ask(CancellationToken::new());
    while bench.made() < 1 {
        tokio::task::yield_now().await;
    }
    let second = ask(cancel.clone());
    bench.settle().await;
    cancel.cancel();
    assert!(second.await.unwrap().is_err());
    assert_eq!(bench.made(), 1);
    first.abort();
}
