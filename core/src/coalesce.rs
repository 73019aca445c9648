//! Equal and simultaneous reads become one.
//!
//! While a load is under way, questions gather; the next load answers all of them at once, each distinct key asked
//! once. No timer is involved: an idle service answers at once, a busy one in batches as large as it is slow.

use std::{collections::HashMap, future::Future, hash::Hash};

use tokio::sync::{mpsc, oneshot};

/// How many distinct keys one load is asked for at most.
const MAX_BATCH: usize = 512;

type Question<K, V, E> = (K, oneshot::Sender<Result<V, E>>);

/// A shared way to a loader; clones share it.
pub struct Coalesce<K, V, E> {
    questions: mpsc::Sender<Question<K, V, E>>,
}

impl<K, V, E> Clone for Coalesce<K, V, E> {
    fn clone(&self) -> Self {
        Self { questions: self.questions.clone() }
    }
}

/// The loader's task ended, as it does when the process stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl<K, V, E> Coalesce<K, V, E>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + 'static,
    E: Clone + From<Stopped> + Send + 'static,
{
    /// A coalescer and the task that serves it until the last clone is gone. `load` answers keys in their order.
    pub fn new<F, L>(mut load: L) -> (Self, impl Future<Output = ()> + Send)
    where
        L: FnMut(Vec<K>) -> F + Send,
        F: Future<Output = Result<Vec<V>, E>> + Send,
    {
        let (questions, mut inbox) = mpsc::channel::<Question<K, V, E>>(4 * MAX_BATCH);
        let serve = async move {
            let mut batch = Vec::with_capacity(MAX_BATCH);
            while inbox.recv_many(&mut batch, MAX_BATCH).await > 0 {
                let mut waiting: HashMap<K, Vec<oneshot::Sender<Result<V, E>>>> = HashMap::new();
                for (key, answer) in batch.drain(..) {
                    waiting.entry(key).or_default().push(answer);
                }
                let keys: Vec<K> = waiting.keys().cloned().collect();
                let answers = load(keys.clone()).await;
                for (at, key) in keys.iter().enumerate() {
                    let answer = pick(&answers, at);
                    for asked in waiting.remove(key).into_iter().flatten() {
                        let _ = asked.send(answer.clone()); // whoever no longer waits does not want it
                    }
                }
            }
        };
        (Self { questions }, serve)
    }

    /// The value of one key, as of a load that began after this call.
    pub async fn get(&self, key: K) -> Result<V, E> {
        let (answer, answered) = oneshot::channel();
        self.questions.send((key, answer)).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)?
    }
}

fn pick<V: Clone, E: Clone + From<Stopped>>(answers: &Result<Vec<V>, E>, at: usize) -> Result<V, E> {
    match answers {
        Ok(values) => values.get(at).cloned().ok_or_else(|| Stopped.into()),
        Err(error) => Err(error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Failed;

    impl From<Stopped> for Failed {
        fn from(_: Stopped) -> Self {
            Self
        }
    }

    #[tokio::test]
    async fn a_thousand_equal_questions_are_two_loads() {
        let loads = Arc::new(AtomicUsize::new(0));
        let counted = loads.clone();
        let (coalesce, serve) = Coalesce::<u32, u32, Failed>::new(move |keys| {
            let turn = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::task::yield_now().await;
                if turn > 5 { Err(Failed) } else { Ok(keys.into_iter().map(|key| key * 2).collect()) }
            }
        });
        let served = tokio::spawn(serve);
        let asked: Vec<_> = (0..1_000)
            .map(|n| {
                tokio::spawn({
                    let c = coalesce.clone();
                    async move { c.get(n % 2).await }
                })
            })
            .collect();
        for (n, answer) in asked.into_iter().enumerate() {
            assert_eq!(answer.await.expect("no panic"), Ok((n as u32 % 2) * 2));
        }
        assert!(loads.load(Ordering::SeqCst) <= 4, "{loads:?}");
        drop(coalesce);
        served.await.expect("the task ends with its last handle");
    }
}
