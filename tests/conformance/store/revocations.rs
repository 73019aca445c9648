//! What was taken back is listed in the order of commits, and forgotten when it has run out.

use everpost_core::{
    clock::now_ms,
    store::{NewConversation, Revoked},
};

use super::{
    on_every_store,
    records::{conversation, user},
    stage::Stage,
};

const HOUR_MS: u64 = 3_600_000;

fn token(id: &str) -> Revoked {
    Revoked::Token(id.to_owned())
}

async fn listed(store: &Stage, after: u64) -> Vec<Revoked> {
    store.revocations(after, 1_000).await.expect("readable").into_iter().map(|entry| entry.what).collect()
}

async fn what_is_revoked_is_listed_after_a_number(store: Stage) {
    let until = now_ms() + HOUR_MS;
    let user_of = Revoked::Tokens { user: user("alice"), issued_before: 77 };
    for what in [&token("a/b+c=="), &user_of, &token("b")] {
        assert!(store.revoke(what, until).await.expect("writable"));
    }
    let all = store.revocations(0, 1_000).await.expect("readable");
    assert!(all.iter().all(|entry| entry.until_ms == until) && all.is_sorted_by_key(|entry| entry.number));
    assert_eq!(listed(&store, 0).await, [token("a/b+c=="), user_of.clone(), token("b")]);
    assert_eq!(listed(&store, all[0].number).await, [user_of, token("b")]);
    assert_eq!(store.revocations(0, 2).await.expect("readable").len(), 2, "as many as were asked for");
    let store = store.reopen().await;
    assert_eq!(listed(&store, all[1].number).await, [token("b")], "also after a restart");
}

async fn who_leaves_a_conversation_is_listed(store: Stage) {
    let (id, participants) = (conversation("room"), vec![user("alice"), user("bob")]);
    let room = NewConversation { id: id.clone(), title: None, participants, created_ms: 1 };
    store.create(&room).await.expect("writable");
    assert_eq!(store.remove_participant(&id, &user("bob")).await.expect("writable"), Some(true));
    assert_eq!(store.remove_participant(&id, &user("bob")).await.expect("writable"), Some(false));
    assert_eq!(store.remove_participant(&conversation("nowhere"), &user("bob")).await.expect("writable"), None);
    let part = Revoked::Part { conversation: id, user: user("bob") };
    assert_eq!(listed(&store, 0).await, [part], "once, and only who was in");
}

async fn what_has_run_out_is_forgotten(store: Stage) {
    store.revoke(&token("old"), now_ms() - 2 * HOUR_MS).await.expect("writable");
    store.revoke(&token("recent"), now_ms() - 1).await.expect("writable");
    store.revoke(&token("new"), now_ms() + HOUR_MS).await.expect("writable");
    assert_eq!(listed(&store, 0).await, [token("recent"), token("new")], "an hour is left for clocks that differ");
}

/// Whoever reads on from the last number it saw misses nothing, however many write at the same time.
async fn no_number_appears_behind_one_that_was_read(store: Stage) {
    let writers = (0..40).map(|n| {
        let store = store.shared();
        async move { store.revoke(&token(&format!("{n}")), now_ms() + HOUR_MS).await.expect("writable") }
    });
    let reader = async {
        let (mut last, mut seen) = (0, 0);
        while seen < 40 {
            for entry in store.revocations(last, 7).await.expect("readable") {
                (last, seen) = (entry.number, seen + 1);
            }
            tokio::task::yield_now().await;
        }
    };
    let both = futures_util::future::join(futures_util::future::join_all(writers), reader);
    tokio::time::timeout(std::time::Duration::from_secs(20), both).await.expect("every one of them was read");
}

on_every_store!(
    what_is_revoked_is_listed_after_a_number,
    who_leaves_a_conversation_is_listed,
    what_has_run_out_is_forgotten,
    no_number_appears_behind_one_that_was_read,
);
