//! Filtered scans of which few rows pass are kept, where they are joined.
//!
//! ```text
//! ΔL ⋈ σ S   looks rows of S up that σ mostly turns away;   ΔL ⋈ κ σ S, the rows of σ S being kept (κ), does not
//! ```
//!
//! So are tables of which few rows are left where they are [reduced](crate::reduction). Whether few rows pass is for the caller to say: it depends on what the source holds. Kept are the columns that are used,
//! with an index on each by which the rows are looked up, and one on those together by which the rows of a group are, when it is
//! computed anew.

use crate::described;
use crate::ir::{JoinKind, Rel, Scalar, SourceId};
use crate::keys::KnownKeys;
use crate::liveness::{Columns, all, used_below};
use crate::plan::Catalog;
use crate::plan::matching::fits_in_index;
use crate::plan::parts::Parts;
use crate::program::Definition;
use crate::reduction::{Reduction, reduced};
use crate::single;
use crate::sql::{From, Ident, Select, Sql};
use std::convert::Infallible;

/// Rows of a source that could be kept: those that pass a filter, or that are left where the source is reduced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// What it reads.
    pub source: SourceId,
    /// The rows that pass.
    pub query: Sql,
    /// How it is reduced, unless it is a filtered scan.
    pub reduction: Option<Reduction>,
    rel: Rel,
}

/// What of a query's plan depends on what its sources hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Those whose rows are kept.
    pub kept: Vec<Selection>,
    /// Groups are made as they are written, with [what describes them](crate::described).
    pub as_written: bool,
}

/// For each source that [describes groups](crate::described) a query for the values by which these would be made: of others
/// than the source has they would be kept for nothing.
pub fn describing(definition: &Definition) -> Vec<(SourceId, Sql)> {
    let found = described::describing(&single::as_semi_joins(&definition.root), &definition.known_keys());
    let values = |(source, of, column): (SourceId, SourceId, i16)| {
        let info = definition.sources.iter().find(|info| info.id == of)?;
        let from = From::Table { name: info.table.clone(), only: info.only, alias: None };
        let column = (Sql::from(info.columns.get(&column)?), Ident::column(0));
        Some((source, Select::from(from).columns([column]).group_by_first(1).sql()))
    };
    found.into_iter().filter_map(values).collect()
}

/// The filtered scans of a query that are joined by equality, and what could be reduced by these.
pub fn selections(definition: &Definition) -> Vec<Selection> {
    let (query, known) = (definition.simplified(false), definition.known_keys());
    let filtered = Keeper::candidates(&query, Vec::new()).into_iter().map(|rel| (rel, None));
    let mut found: Vec<(Rel, Option<Reduction>)> = filtered.collect();
    reduced(&query, &known, &mut |left, reduction| {
        let other = reduced(&query, &known, &mut |other, _| other == left);
        let could_be_kept = || Keeper::candidates(&other, vec![left.clone()]).contains(left);
        if found.iter().all(|(known, _)| known != left) && could_be_kept() {
            found.push((left.clone(), Some(reduction.clone())));
        }
        false
    });
    let catalog = Catalog::of_sources(&definition.sources);
    let selection = |(rel, reduction): (Rel, Option<Reduction>)| {
        // That of the rows themselves comes first.
        let source = *rel.sources().first()?;
        Some(Selection { source, query: catalog.rel(&rel).sql(), reduction, rel })
    };
    found.into_iter().filter_map(selection).collect()
}

impl Selection {
    /// Whether it is this one.
    pub(crate) fn is(&self, rel: &Rel) -> bool {
        self.rel == *rel
    }
}

/// The same query where of what could be kept the chosen is.
pub fn keep(query: &Rel, known: &KnownKeys, chosen: &dyn Fn(&Rel) -> bool) -> Rel {
    let mut made = Vec::new();
    let query = reduced(query, known, &mut |left, _| {
        let chosen = chosen(left);
        made.extend(chosen.then(|| left.clone()));
        chosen
    });
    Keeper { chosen, reduced: made, found: Vec::new() }.visit(&query, &all(&query), &Asked::default())
}

/// By which columns of a relation its rows are looked up.
#[derive(Clone, Default)]
struct Asked {
    /// By each of these a join does so, this one or one above.
    each: Columns,
    /// By all of these, the keys of groups that are computed anew whenever they are touched; none if there are no such groups.
    together: Columns,
}

impl Asked {
    /// The same of another relation, which has the columns at these places.
    fn at(&self, place: impl Fn(usize) -> Option<usize>) -> Asked {
        let each = self.each.iter().filter_map(|c| place(*c)).collect();
        let together = self.together.iter().map(|c| place(*c)).collect::<Option<Columns>>().unwrap_or_default();
        Asked { each, together }
    }

    fn and(mut self, each: impl Iterator<Item = usize>) -> Asked {
        self.each.extend(each);
        self
    }
}

struct Keeper<'a> {
    chosen: &'a dyn Fn(&Rel) -> bool,
    /// What is left of reduced tables.
    reduced: Vec<Rel>,
    /// What could be kept, each once.
    found: Vec<Rel>,
}

impl Keeper<'_> {
    /// What could be kept of a query in which these are left of tables.
    fn candidates(query: &Rel, reduced: Vec<Rel>) -> Vec<Rel> {
        let mut keeper = Keeper { chosen: &|_| false, reduced, found: Vec::new() };
        keeper.visit(query, &all(query), &Asked::default());
        keeper.found
    }

    fn could_keep(&self, rel: &Rel) -> bool {
        match rel {
            Rel::Filter { input, .. } => matches!(**input, Rel::Scan { .. }),
            Rel::Join { kind: JoinKind::Semi, .. } => self.reduced.contains(rel),
            _ => false,
        }
    }

    /// Of the relation's columns those in `used` are used.
    fn visit(&mut self, rel: &Rel, used: &Columns, asked: &Asked) -> Rel {
        match rel {
            _ if self.could_keep(rel) => {
                let cols = rel.cols();
                if asked.each.is_empty() || !fits_in_index(asked.each.iter().map(|c| &cols[*c].ty)) {
                    return rel.clone();
                }
                if !self.found.contains(rel) {
                    self.found.push(rel.clone());
                }
                if (self.chosen)(rel) {
                    in_its_place(rel, used, asked).unwrap_or_else(|| rel.clone())
                } else {
                    rel.clone()
                }
            }
            // A recursion looks its rows up time and again as it is.
            Rel::Fixpoint { .. } => rel.clone(),
            _ => {
                let mut below = used_below(rel, used).into_iter().zip(asked_below(rel, asked));
                let Ok(rel) = rel.try_map_inputs::<Infallible>(&mut |input| {
                    let (used, asked) = below.next().unwrap_or_else(|| (all(input), Asked::default()));
                    Ok(self.visit(input, &used, &asked))
                });
                rel
            }
        }
    }
}

/// The same for each input.
fn asked_below(rel: &Rel, asked: &Asked) -> Vec<Asked> {
    match rel {
        Rel::Filter { .. } => vec![asked.clone()],
        Rel::Map { exprs, .. } => vec![asked.at(|c| exprs[c].column)],
        Rel::Join { kind, left, on, .. } => {
            let l = left.arity();
            let both = matches!(kind, JoinKind::Inner | JoinKind::Left);
            let equal = || on.iter().filter_map(|c| c.equi);
            vec![
                asked.at(|c| (c < l).then_some(c)).and(equal().map(|(left, _)| left)),
                asked.at(|c| c.checked_sub(l).filter(|_| both)).and(equal().map(|(_, right)| right)),
            ]
        }
        Rel::Aggregate { keys, aggs, .. } if Parts::of(aggs).always_dirty() => {
            let together = keys.iter().map(|key| key.column).collect::<Option<Columns>>().unwrap_or_default();
            vec![Asked { each: Columns::new(), together }]
        }
        _ => vec![Asked::default(); rel.inputs().len()],
    }
}

/// The used columns kept, the others NULL.
fn in_its_place(rel: &Rel, used: &Columns, asked: &Asked) -> Option<Rel> {
    let cols = rel.cols();
    let columns: Vec<usize> = used.union(&asked.each).copied().collect();
    let place = |c: &usize| columns.iter().position(|known| known == c);
    let narrow = rel.clone().map(columns.iter().map(|c| Scalar::column(*c, &cols[*c])).collect()).ok()?;
    let together = Some(&asked.together).filter(|columns| {
        let alone = columns.len() == 1 && columns.is_subset(&asked.each);
        !columns.is_empty() && !alone && fits_in_index(columns.iter().map(|c| &cols[*c].ty))
    });
    let alone = asked.each.iter().map(|c| vec![*c]);
    let indexes = alone.chain(together.map(|columns| columns.iter().copied().collect()));
    let asked = indexes.map(|columns| columns.iter().filter_map(place).collect()).collect();
    let kept = narrow.selected(asked).ok()?;
    let value = |(c, col)| place(&c).map_or_else(|| Scalar::null(&cols[c].ty), |at| Scalar::column(at, col));
    kept.map(cols.iter().enumerate().map(value).collect()).ok()
}
