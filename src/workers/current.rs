//! Until when all that was committed is known to be in the change buffers. That a buffer has nothing new says something of the sources
//! only up to that moment: a decoder that hangs would otherwise look like sources that do not change.

/// A commit that is waited for, and what is known.
#[derive(Default)]
pub struct Current {
    /// The newest commit when it was last looked for, and when that was.
    mark: (u64, i64),
    until: i64,
}

impl Current {
    /// The moment, given the end of the newest commit, the position of the change buffers, and the time before both were read.
    pub fn look(&mut self, committed_lsn: u64, applied_lsn: u64, now: i64) -> i64 {
        if applied_lsn >= self.mark.0 {
            self.until = self.mark.1;
            self.mark = (committed_lsn, now);
        }
        if applied_lsn >= self.mark.0 {
            self.until = self.mark.1;
        }
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_buffers_however_many_commits_come() {
        let mut current = Current::default();
        assert_eq!(current.look(100, 100, 1), 1);
        assert_eq!(current.look(100, 100, 5), 5, "nothing is committed");
        assert_eq!(current.look(200, 150, 6), 5, "a commit is on its way");
        assert_eq!(current.look(300, 190, 8), 5, "and hangs");
        assert_eq!(current.look(400, 250, 9), 6, "all before the time when it was the newest has come");
        assert_eq!(current.look(400, 400, 12), 12);
    }
}
