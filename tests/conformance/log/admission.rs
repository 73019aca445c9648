//! What the log does not take yet: conversations it does not know, keys it cannot judge.

use everpost_core::{
    clock::now_ms,
    event::Draft,
    identity::{CLOCK_LEEWAY_MS, Key},
    log::{Appended, Top},
};
use uuid::{NoContext, Timestamp, Uuid};

use super::{
    drafts::{append, begin, conversation, draft, drafts, hydrate, keyed, prior, seq, siblings},
    on_every_log,
    stage::Stage,
};

async fn an_unknown_conversation_waits_and_others_do_not(log: Stage) {
    let ids = siblings(&*log, 3);
    begin(&*log, &ids[1..2]).await;
    let batch = [draft(&ids[0]), draft(&ids[1]), keyed(&ids[0], "bob", "k"), draft(&ids[2]), draft(&ids[1])];
    let answers = append(&*log, &batch).await;
    assert_eq!([&answers[0], &answers[2], &answers[3]], [&Appended::Unhydrated; 3]);
    assert_eq!([1, 4].map(|at: usize| seq(&answers[at])), [1, 2]);
    begin(&*log, &[&ids[0], &ids[2]]).await;
    let held = [batch[0].clone(), batch[2].clone(), batch[3].clone()];
    assert_eq!(append(&*log, &held).await.iter().map(seq).collect::<Vec<_>>(), [1, 2, 1]);
}

async fn a_hydrated_conversation_goes_on_after_its_top(log: Stage) {
    hydrate(&*log, "general", 41).await;
    assert_eq!(append(&*log, &drafts("general", 2)).await.iter().map(seq).collect::<Vec<_>>(), [42, 43]);
}

async fn hydrating_never_moves_back(log: Stage) {
    hydrate(&*log, "general", 41).await;
    for seq in [41, 40, 0] {
        hydrate(&*log, "general", seq).await;
    }
    assert_eq!(seq(&append(&*log, &[draft("general")]).await[0]), 42);
    hydrate(&*log, "general", 41).await;
    assert_eq!(seq(&append(&*log, &[draft("general")]).await[0]), 43);
}

async fn hydrating_moves_a_log_that_is_behind(log: Stage) {
    begin(&*log, &["general"]).await;
    append(&*log, &drafts("general", 2)).await;
    hydrate(&*log, "general", 10).await;
    assert_eq!(seq(&append(&*log, &[draft("general")]).await[0]), 11);
}

async fn hydrating_among_appends_is_never_undone(log: Stage) {
    begin(&*log, &["general"]).await;
    append(&*log, &[draft("general")]).await;
    let (a, b) = (draft("general"), draft("general"));
    let (first, (), second) = tokio::join!(
        append(&*log, std::slice::from_ref(&a)),
        hydrate(&*log, "general", 10),
        append(&*log, std::slice::from_ref(&b))
    );
    let given = [seq(&first[0]), seq(&second[0])];
    assert!(given[0] != given[1], "{given:?}");
    assert!(seq(&append(&*log, &[draft("general")]).await[0]) >= 11, "what was hydrated stands, whoever came first");
}

async fn several_conversations_are_hydrated_at_once(log: Stage) {
    let ids = siblings(&*log, 3);
    let tops: Vec<Top> =
        ids.iter().zip([0, 5, 9]).map(|(id, seq)| Top { conversation: conversation(id), seq }).collect();
    let partition = log.partitions().of(&ids[0]);
    log.hydrate(partition, log.generation(partition), &tops).await.expect("the log answers");
    let batch: Vec<Draft> = ids.iter().map(|id| draft(id)).collect();
    assert_eq!(append(&*log, &batch).await.iter().map(seq).collect::<Vec<_>>(), [1, 6, 10]);
}

async fn a_young_conversation_needs_no_verification(log: Stage) {
    begin(&*log, &["general"]).await;
    let batch = [keyed("general", "alice", "order 17"), aged_key("general", 3_600_000), aged_key("general", 0)];
    assert_eq!(append(&*log, &batch).await.iter().map(seq).collect::<Vec<_>>(), [1, 2, 3]);
}

async fn a_conversation_with_history_has_its_keys_verified(log: Stage) {
    hydrate(&*log, "general", 7).await;
    for unproven in [keyed("general", "alice", "order 17"), aged_key("general", 3_600_000)] {
        assert_eq!(append(&*log, std::slice::from_ref(&unproven)).await, [Appended::Unverified]);
    }
    assert_eq!(seq(&append(&*log, &[draft("general")]).await[0]), 8, "no key, nothing to verify");
}

/// The log's memory of identities began when it was installed, just now: a key made at the same time may be older than
/// that, given how far clocks may be apart.
async fn a_key_as_young_as_the_memory_is_not_proven_new(log: Stage) {
    hydrate(&*log, "general", 7).await;
    assert_eq!(append(&*log, &[aged_key("general", 0)]).await, [Appended::Unverified]);
}

async fn a_key_younger_than_the_memory_is_proven_new(log: Stage) {
    hydrate(&*log, "general", 7).await;
    let later = now_ms() + 2 * CLOCK_LEEWAY_MS;
    assert_eq!(seq(&append(&*log, &[minted("general", later, later)]).await[0]), 8);
    let ahead = minted("general", later + CLOCK_LEEWAY_MS, later);
    assert_eq!(append(&*log, &[ahead]).await, [Appended::Unverified], "a clock too far ahead proves nothing");
}

async fn a_conversation_that_turns_out_to_have_history_is_young_no_more(log: Stage) {
    begin(&*log, &["general"]).await;
    hydrate(&*log, "general", 7).await;
    assert_eq!(append(&*log, &[keyed("general", "alice", "k")]).await, [Appended::Unverified]);
}

async fn an_unverified_draft_holds_back_its_conversation_only(log: Stage) {
    let ids = siblings(&*log, 2);
    hydrate(&*log, &ids[0], 7).await;
    hydrate(&*log, &ids[1], 7).await;
    let unproven = keyed(&ids[0], "alice", "k");
    let batch = [draft(&ids[0]), unproven, draft(&ids[1]), draft(&ids[0]), draft(&ids[1])];
    let answers = append(&*log, &batch).await;
    assert_eq!([&answers[1], &answers[3]], [&Appended::Unverified; 2]);
    assert_eq!([0, 2, 4].map(|at: usize| seq(&answers[at])), [8, 8, 9]);
    let held = [Draft { verified: Some(1), ..batch[1].clone() }, batch[3].clone()];
    assert_eq!(append(&*log, &held).await.iter().map(seq).collect::<Vec<_>>(), [9, 10], "in their order");
}

async fn a_repeat_behind_a_held_draft_is_held_too(log: Stage) {
    hydrate(&*log, "general", 7).await;
    let first = Draft { verified: Some(1), ..keyed("general", "alice", "first") };
    let answers = append(&*log, std::slice::from_ref(&first)).await;
    let unproven = keyed("general", "alice", "second");
    let batch = [first.clone(), unproven, first.clone(), draft("general")];
    let known = prior(&first, &answers[0]);
    let held = Appended::Unverified;
    assert_eq!(append(&*log, &batch).await, [known, held.clone(), held.clone(), held]);
}

async fn a_verified_key_is_remembered(log: Stage) {
    hydrate(&*log, "general", 7).await;
    let verified = Draft { verified: Some(1), ..keyed("general", "alice", "k") };
    let answers = append(&*log, std::slice::from_ref(&verified)).await;
    assert_eq!(append(&*log, &[keyed("general", "alice", "k")]).await, [prior(&verified, &answers[0])]);
}

/// A draft with a key that says it was made so long ago.
fn aged_key(id: &str, age_ms: u64) -> Draft {
    minted(id, now_ms() - age_ms, now_ms())
}

/// A draft with a key that says when it was made, taken by a gateway at another time.
fn minted(id: &str, minted_ms: u64, created_ms: u64) -> Draft {
    let nanos = (minted_ms % 1_000) as u32 * 1_000_000;
    let key = Uuid::new_v7(Timestamp::from_unix(NoContext, minted_ms / 1_000, nanos)).to_string();
    Draft { key: Some(Key::new(&key).expect("a key")), created_ms, ..draft(id) }
}

on_every_log!(
    an_unknown_conversation_waits_and_others_do_not,
    a_hydrated_conversation_goes_on_after_its_top,
    hydrating_never_moves_back,
    hydrating_moves_a_log_that_is_behind,
    hydrating_among_appends_is_never_undone,
    several_conversations_are_hydrated_at_once,
    a_young_conversation_needs_no_verification,
    a_conversation_with_history_has_its_keys_verified,
    a_key_as_young_as_the_memory_is_not_proven_new,
    a_key_younger_than_the_memory_is_proven_new,
    a_conversation_that_turns_out_to_have_history_is_young_no_more,
    an_unverified_draft_holds_back_its_conversation_only,
    a_repeat_behind_a_held_draft_is_held_too,
    a_verified_key_is_remembered,
);
