//! Acknowledgements: eight-byte LSNs from the consumer to the producer, meaning 'durable up to here'.

/// Puts LSNs together from bytes that arrive in any pieces; older ones are superseded by newer ones.
#[derive(Debug, Clone, Default)]
pub struct AckReader {
    partial: [u8; 8],
    filled: usize,
}

/// The bytes of one acknowledgement.
pub fn write_ack(lsn: u64) -> [u8; 8] {
    lsn.to_le_bytes()
}

impl AckReader {
    /// Takes what arrived; the newest LSN that is complete, if any is.
    pub fn push(&mut self, mut bytes: &[u8]) -> Option<u64> {
        let mut newest = None;
        while !bytes.is_empty() {
            let take = bytes.len().min(8 - self.filled);
            let (head, rest) = bytes.split_at(take);
            self.partial[self.filled..self.filled + take].copy_from_slice(head);
            self.filled += take;
            bytes = rest;
            if self.filled == 8 {
                newest = Some(u64::from_le_bytes(self.partial));
                self.filled = 0;
            }
        }
        newest
    }
}
