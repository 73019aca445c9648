//! The limit of open files: every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files a process has open beside its clients' connections.
const BESIDES: u64 = 512;

/// Raises the soft limit to the hard one, which takes no rights. Without it a gateway would stop taking connections at
/// the 1,024 that systems give to programs which do not ask.
pub(crate) fn raise() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// What is wrong with the hard limit, for so many connections.
pub(crate) fn shortage(max_connections: usize) -> Option<String> {
    let needed = u64::try_from(max_connections).unwrap_or(u64::MAX).saturating_add(BESIDES);
    let limit = getrlimit(Resource::Nofile).maximum.filter(|limit| *limit < needed)?;
    Some(format!(
        "only {limit} open files for {max_connections} connections: allow {needed}, `ulimit -Hn {needed}` or LimitNOFILE, \
         or lower max_connections"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let lower = Some(maximum.unwrap_or(4_096).min(4_096) - 1);
        setrlimit(Resource::Nofile, Rlimit { current: lower, maximum }).expect("lowering is allowed");
        raise();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
        assert_eq!(shortage(1), None);
        assert_eq!(shortage(usize::MAX).is_some(), maximum.is_some());
    }
}
