//! Places: order, dense numbers whoever appends at the same time, and bodies as they were.

use std::collections::BTreeMap;

use everpost_core::{
    event::{Draft, Record},
    log::{Appended, Durability},
    position::Position,
};
use tokio::task::JoinSet;

use super::{
    drafts::{append, begin, draft, drafts, placed, record, rest, seq, siblings},
    on_every_log,
    stage::Stage,
};

async fn drafts_get_their_places_in_order(log: Stage) {
    let ids = siblings(&*log, 2);
    begin(&*log, &ids).await;
    let sent = [draft(&ids[0]), draft(&ids[1]), draft(&ids[0]), draft(&ids[0]), draft(&ids[1])];
    let answers = append(&*log, &sent).await;
    assert_eq!(answers.iter().map(seq).collect::<Vec<_>>(), [1, 1, 2, 3, 2]);
    let records: Vec<Record> = sent.iter().zip(&answers).map(|(draft, answer)| record(draft, answer)).collect();
    assert_eq!(offsets(&records), [1, 2, 3, 4, 5]);
    assert_eq!(rest(&*log, log.partitions().of(&ids[0]), Position::ZERO).await, records);
}

async fn batch_after_batch_goes_on(log: Stage) {
    begin(&*log, &["general"]).await;
    let mut sent = Vec::new();
    for size in [1, 7, 1, 30] {
        let batch = drafts("general", size);
        let answers = append(&*log, &batch).await;
        sent.extend(batch.iter().zip(&answers).map(|(draft, answer)| record(draft, answer)));
    }
    assert_eq!(offsets(&sent), (1..=39).collect::<Vec<_>>());
    assert_eq!(rest(&*log, log.partitions().of("general"), Position::ZERO).await, sent);
}

async fn an_empty_batch_changes_nothing(log: Stage) {
    let partition = log.partitions().of("general");
    assert_eq!(log.append(partition, &[]).await.expect("harmless"), []);
    log.hydrate(partition, log.generation(partition), &[]).await.expect("harmless");
    assert!(log.ends().await.expect("readable").iter().all(|&end| end == Position::ZERO));
}

async fn numbers_are_dense_however_many_append_at_once(log: Stage) {
    let rooms: Vec<String> = (0..6).map(|n| format!("room-{n}")).collect();
    begin(&*log, &rooms).await;
    let mut senders = JoinSet::new();
    for at in 0..24 {
        let (log, room) = (log.share(), rooms[at % rooms.len()].clone());
        senders.spawn(async move {
            let mut own = Vec::new();
            for _ in 0..5 {
                let batch = drafts(&room, 3);
                let answers = append(&*log, &batch).await;
                own.extend(batch.iter().zip(&answers).map(|(draft, answer)| record(draft, answer)));
            }
            own
        });
    }
    let sent = senders.join_all().await;
    for own in &sent {
        assert!(own.is_sorted_by_key(|record| record.position), "each sender's own order is kept");
    }
    let mut sent: Vec<Record> = sent.into_iter().flatten().collect();
    sent.sort_by_key(|record| (log.partitions().of(record.conversation().expect("well formed")), record.position));
    let mut found = Vec::new();
    for partition in log.partitions().iter() {
        let records = rest(&*log, partition, Position::ZERO).await;
        assert_eq!(offsets(&records), (1..=records.len() as u64).collect::<Vec<_>>());
        found.extend(records);
    }
    assert_eq!(found, sent);
    assert_dense(&found, 24 / 6 * 5 * 3);
}

async fn a_full_batch_with_large_bodies_is_taken_whole(log: Stage) {
    begin(&*log, &["general"]).await;
    let large: Box<str> = format!(r#"{{"text":"{}"}}"#, "€ ".repeat(16 * 1024)).into();
    assert!(large.len() >= 64 * 1024);
    let mut sent = drafts("general", log.max_batch());
    sent.iter_mut().step_by(8).for_each(|draft| draft.data = large.clone());
    let answers = append(&*log, &sent).await;
    let records: Vec<Record> = sent.iter().zip(&answers).map(|(draft, answer)| record(draft, answer)).collect();
    assert_eq!(answers.iter().map(seq).collect::<Vec<_>>(), (1..=log.max_batch() as u64).collect::<Vec<_>>());
    assert!(rest(&*log, log.partitions().of("general"), Position::ZERO).await == records);
}

async fn text_arrives_byte_for_byte(log: Stage) {
    begin(&*log, &["general"]).await;
    let texts = [
        "Grüße 🎈",
        "שלום עליכם",
        "e\u{301} \u{202e} \u{2028}",
        r#""quoted" \ 'n' \u0000 {} "#,
        r#"{"a":"\r\n\t"}"#,
        "",
    ];
    let sent: Vec<Draft> = texts.iter().map(|&text| Draft { data: text.into(), ..draft("general") }).collect();
    let records = placed(&*log, &sent).await;
    let found = rest(&*log, log.partitions().of("general"), Position::ZERO).await;
    assert_eq!(found, records);
    let data: Vec<&str> = found.iter().map(|record| record.event().expect("well formed").data).collect();
    assert_eq!(data, texts);
}

async fn it_says_what_an_answer_promises(log: Stage) {
    assert_eq!(log.durability(), Durability::Fsync);
    begin(&*log, &["general"]).await;
    let partition = log.partitions().of("general");
    let answers = append(&*log, &drafts("general", 3)).await;
    let Appended::Accepted { position, .. } = answers[2] else { panic!("not accepted but {answers:?}") };
    let ends = log.ends().await.expect("readable");
    assert_eq!((ends.len(), ends[partition.index()]), (log.partitions().count(), position));
}

fn offsets(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.position.offset()).collect()
}

/// Each conversation has 1 to `count`, in this order.
fn assert_dense(records: &[Record], count: u64) {
    let mut seqs: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for event in records.iter().map(|record| record.event().expect("well formed")) {
        seqs.entry(event.conversation).or_default().push(event.seq);
    }
    for (id, seqs) in seqs {
        assert_eq!(seqs, (1..=count).collect::<Vec<_>>(), "{id}");
    }
}

on_every_log!(
    drafts_get_their_places_in_order,
    batch_after_batch_goes_on,
    an_empty_batch_changes_nothing,
    numbers_are_dense_however_many_append_at_once,
    a_full_batch_with_large_bodies_is_taken_whole,
    text_arrives_byte_for_byte,
    it_says_what_an_answer_promises,
);
