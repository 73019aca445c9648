//! Idempotency: which publish is a repeat, and what it is told.

use everpost_core::{
    event::Draft,
    identity::{Digest, Key},
    log::Appended,
    position::Position,
};
use tokio::task::JoinSet;

use super::{
    drafts::{append, begin, draft, keyed, prior, rest, seq, siblings},
    on_every_log,
    stage::Stage,
};

async fn a_repeat_in_a_later_batch_gets_the_first_answer(log: Stage) {
    begin(&*log, &["general"]).await;
    let first = keyed("general", "alice", "order 17");
    let answers = append(&*log, &[draft("general"), first.clone()]).await;
    let again = Draft { body: Digest::of_body(&["another"]), ..keyed("general", "alice", "order 17") };
    assert_ne!(again.message_id, first.message_id);
    assert_eq!(append(&*log, &[again]).await, [prior(&first, &answers[1])], "also when the body is another");
}

async fn a_repeat_in_one_batch_gets_the_first_answer(log: Stage) {
    begin(&*log, &["general"]).await;
    let first = keyed("general", "alice", "k");
    let batch = [first.clone(), draft("general"), keyed("general", "alice", "k"), draft("general")];
    let answers = append(&*log, &batch).await;
    assert_eq!(answers[2], prior(&first, &answers[0]));
    assert_eq!([0, 1, 3].map(|at: usize| seq(&answers[at])), [1, 2, 3], "a repeat takes no number");
    assert_eq!(rest(&*log, log.partitions().of("general"), Position::ZERO).await.len(), 3);
}

async fn an_equal_key_of_somebody_else_is_another_event(log: Stage) {
    let ids = siblings(&*log, 2);
    begin(&*log, &ids).await;
    let batch = [keyed(&ids[0], "alice", "k"), keyed(&ids[0], "bob", "k"), keyed(&ids[1], "alice", "k")];
    assert_eq!(append(&*log, &batch).await.iter().map(seq).collect::<Vec<_>>(), [1, 2, 1]);
}

async fn keys_that_could_be_confused_are_not(log: Stage) {
    begin(&*log, &["a", "ab"]).await;
    let pairs = [("a", "bc", "d"), ("ab", "c", "d"), ("a", "b", "cd"), ("a", "b", "-"), ("a", "b", "=")];
    for (id, sender, key) in pairs {
        let answers = append(&*log, &[keyed(id, sender, key)]).await;
        assert!(matches!(answers[..], [Appended::Accepted { .. }]), "{id} {sender} {key}: {answers:?}");
    }
}

async fn the_same_drafts_again_change_nothing(log: Stage) {
    let ids = siblings(&*log, 2);
    begin(&*log, &ids).await;
    let batch = [draft(&ids[0]), keyed(&ids[1], "alice", "k"), draft(&ids[1]), keyed(&ids[0], "bob", "k")];
    let answers = append(&*log, &batch).await;
    let (partition, ends) = (log.partitions().of(&ids[0]), log.ends().await.expect("readable"));
    let records = rest(&*log, partition, Position::ZERO).await;
    let expected: Vec<Appended> = batch.iter().zip(&answers).map(|(draft, answer)| prior(draft, answer)).collect();
    for _ in 0..2 {
        assert_eq!(append(&*log, &batch).await, expected);
    }
    assert_eq!(log.ends().await.expect("readable"), ends);
    assert_eq!(rest(&*log, partition, Position::ZERO).await, records);
    assert_eq!(seq(&append(&*log, &[draft(&ids[0])]).await[0]), 3);
}

async fn of_many_equal_publishes_at_once_one_is_accepted(log: Stage) {
    begin(&*log, &["general"]).await;
    let mut senders = JoinSet::new();
    for _ in 0..16 {
        let log = log.share();
        senders.spawn(async move {
            let own = keyed("general", "alice", "k");
            let answer = append(&*log, std::slice::from_ref(&own)).await.remove(0);
            (own, answer)
        });
    }
    let mut answers = senders.join_all().await;
    let winner = answers.iter().position(|(_, answer)| matches!(answer, Appended::Accepted { .. }));
    let (first, accepted) = answers.swap_remove(winner.expect("one is the first"));
    assert!(answers.iter().all(|(_, answer)| *answer == prior(&first, &accepted)), "{answers:?}");
    assert_eq!(rest(&*log, log.partitions().of("general"), Position::ZERO).await.len(), 1);
}

async fn a_repeat_is_known_after_a_crash(log: Stage) {
    begin(&*log, &["general"]).await;
    let batch = [keyed("general", "alice", "k"), draft("general"), keyed("general", "alice", "-")];
    let answers = append(&*log, &batch).await;
    let expected: Vec<Appended> = batch.iter().zip(&answers).map(|(draft, answer)| prior(draft, answer)).collect();
    let log = log.crash().await;
    assert_eq!(append(&*log, &batch).await, expected);
    let other = Draft { key: Some(Key::new("k").expect("a key")), ..draft("general") };
    assert_eq!(append(&*log, &[other]).await, [expected[0].clone()]);
    let log = log.reopen().await;
    assert_eq!(append(&*log, &batch).await, expected);
}

on_every_log!(
    a_repeat_in_a_later_batch_gets_the_first_answer,
    a_repeat_in_one_batch_gets_the_first_answer,
    an_equal_key_of_somebody_else_is_another_event,
    keys_that_could_be_confused_are_not,
    the_same_drafts_again_change_nothing,
    of_many_equal_publishes_at_once_one_is_accepted,
    a_repeat_is_known_after_a_crash,
);
