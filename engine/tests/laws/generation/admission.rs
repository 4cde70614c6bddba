//! Who is let in: clients' requests as a whole, however many prompts they have.

use polylora_engine::*;

use super::hash_device::alone;
use super::speaker::*;
use crate::harness::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_more_prompts_than_requests_may_be_in_flight_is_one_and_is_answered() {
    let (engine, control) = start(GenerationConfigs { max_concurrent_requests: 2, ..configs() }).await;
    control.hold();
    let requests: Vec<_> = (0..100).map(|i| request(1, &[i; 5], 4)).collect();
    let starting = engine.generate_all(requests).unwrap();
    assert_eq!(starting.len(), 100);
    let texts: Vec<_> =
        starting.into_iter().map(|text| tokio::spawn(async move { read(text.await?).await })).collect();
    let beside = client(&engine, request(2, &[7; 5], 4));
    until("a step is under way", || control.steps() > 0).await;
    until("both are inside", || engine.generate_all(vec![request(0, &[1], 1)]).is_err()).await;
    let refused = engine.generate_all(vec![request(0, &[1; 3], 1); 3]).err();
    assert_eq!(refused, Some(GenerateError::Overloaded { limit: 2 }));
    control.let_go();
    for (i, text) in (0..).zip(texts) {
        assert_eq!(text.await.unwrap().unwrap().tokens(), alone(1, &[i; 5], 4));
    }
    assert_eq!(beside.await.unwrap().unwrap().tokens(), alone(2, &[7; 5], 4));
    // Its place is free with its last prompt.
    let whole = engine.generate_all(vec![request(0, &[1], 1); 3]).unwrap();
    let other = engine.generate_all(vec![request(0, &[1], 1)]).unwrap();
    assert!(engine.generate_all(vec![]).is_err());
    drop((whole, other));
    assert!(engine.generate_all(vec![]).is_ok(), "who is not polled gives it back too");
    control.check();
}
