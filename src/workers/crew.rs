//! The scheduler's crew: dispatcher and pool, started when there is first something to hand over.

use super::pool;
use super::seat::{self, Role, Seat};
use crate::shmem::DbShared;
use std::sync::atomic::Ordering;

/// Who is to be there, and who is.
pub struct Crew {
    dispatcher: Seat,
    pool: Vec<Seat>,
}

impl Crew {
    pub fn new() -> Crew {
        let dispatcher = Role {
            name: "pg_trickle_dispatcher".into(),
            function: "pgtrickle_dispatcher_main",
            number: 0,
            optional: true,
        };
        Crew { dispatcher: Seat::new(dispatcher), pool: Vec::new() }
    }

    /// Starts who is missing.
    pub fn gather(&mut self, db: &'static DbShared) {
        self.look(db);
        if seat::pools_rest() {
            return;
        }
        let dboid = db.dboid.load(Ordering::Relaxed);
        if db.dispatcher_pid.load(Ordering::SeqCst) == 0 {
            self.dispatcher.fill(dboid);
        }
        let wanted = pool::wanted();
        for number in self.pool.len() + 1..=wanted {
            let role = Role {
                name: format!("pg_trickle_pool_{number}"),
                function: "pgtrickle_pool_main",
                number: number as u32,
                optional: true,
            };
            self.pool.push(Seat::new(role));
        }
        for (seat, pid) in self.pool[..wanted].iter_mut().zip(&db.pool_pids) {
            if pid.load(Ordering::SeqCst) == 0 {
                seat.fill(dboid);
            }
        }
    }

    /// Notices who has ended. Without a dispatcher, what it was asked for is done under snapshots of one's own.
    pub fn look(&mut self, db: &'static DbShared) {
        let meant = seat::pools_rest() || pool::wanted() == 0;
        for seat in self.pool.iter_mut().chain([&mut self.dispatcher]) {
            seat.look();
            if meant && !seat.is_filled() {
                seat.pardon();
            }
        }
        if !self.has_dispatcher(db) {
            db.do_without_round();
        }
    }

    pub fn has_dispatcher(&self, db: &DbShared) -> bool {
        self.dispatcher.is_filled() || db.dispatcher_pid.load(Ordering::SeqCst) != 0
    }

    /// Whether there is a pool, or is going to be.
    pub fn has_pool(&self, db: &DbShared) -> bool {
        pool::wanted() > 0 && (self.pool.iter().any(Seat::is_filled) || db.pool_workers() > 0)
    }
}
