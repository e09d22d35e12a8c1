//! The order of the modules within a line of `modules.dep`.
//!
//! depmod sorts all modules topologically and writes each line in that order (`depmod_calculate_dependencies` in kmod's
//! `tools/depmod.c`). The sort begins with the modules that nobody uses, in the order of the file's lines, on a stack. It takes
//! the top one, which is the next in the result, and counts one user less for each module that it uses directly; those
//! without further users go onto the stack, in the order in which the module's undefined symbols first name them.
//!
//! Two things make this cheap, where depmod decodes every module whole:
//!
//! - Lines hold indirect dependencies too. Counting those as users changes nothing: the last user that the sort takes is
//!   always a direct one, since an indirect one reaches the module only through another that the sort takes in between.
//! - The order of a module's symbols matters only where it frees two modules or more at once. Where it does so among *all*
//!   modules, the root's own lines show what the order was. Only what is left must be read in the module itself.

/// For each module by its line in `modules.dep` (from 0): the lines of what it needs, in the order of its own line.
pub(super) type Needs = Vec<Vec<usize>>;

/// For each module: what it needs directly, as far as known, in the order in which its symbols name it.
pub(super) type Mentions = Vec<Option<Vec<usize>>>;

/// depmod's sort of those modules for which `kept` says so. `arrange` gets a module and what it frees (two or more) and puts
/// these into the order of the module's symbols.
///
/// Each module's place; `None` for those that are not kept, or that need each other.
fn sort(needs: &Needs, kept: &[bool], mut arrange: impl FnMut(usize, &mut [usize])) -> Vec<Option<usize>> {
    let is_kept = |module: &usize| kept.get(*module).copied().unwrap_or_default();
    let mut users = vec![0_usize; needs.len()];
    for (_, needs) in needs.iter().enumerate().filter(|(module, _)| is_kept(module)) {
        for needed in needs {
            if let Some(users) = users.get_mut(*needed) {
                *users += 1;
            }
        }
    }
    let unused = |module: &usize| users.get(*module) == Some(&0);
    let mut stack: Vec<usize> = (0..needs.len()).filter(|module| is_kept(module) && unused(module)).collect();
    let mut places = vec![None; needs.len()];
    let mut next = 0;
    while let Some(module) = stack.pop() {
        if let Some(place) = places.get_mut(module) {
            *place = Some(next);
            next += 1;
        }
        let first = stack.len();
        for needed in needs.get(module).map(Vec::as_slice).unwrap_or_default() {
            match users.get_mut(*needed) {
                Some(1) => stack.push(*needed),
                _ => {}
            }
            if let Some(users) = users.get_mut(*needed) {
                *users = users.saturating_sub(1);
            }
        }
        let freed = stack.get_mut(first..).unwrap_or_default();
        if freed.len() > 1 {
            arrange(module, freed);
        }
    }
    places
}

/// Puts `freed` into the order in which they stand in `mentions`; what is not there goes last, as it was.
fn by_mention(mentions: &[usize], freed: &mut [usize]) {
    freed.sort_by_key(|module| mentions.iter().position(|mentioned| mentioned == module).unwrap_or(usize::MAX));
}

/// What the lines of a whole tree show of the order of symbols: for each module, those that it freed. Nothing, where the
/// lines are not in the order of such a sort: something else than depmod wrote them.
pub(super) fn shown(needs: &Needs) -> Mentions {
    let mut mentions: Mentions = vec![None; needs.len()];
    let places = sort(needs, &vec![true; needs.len()], |module, freed| {
        // What was put on the stack last is taken first: the line has them backwards.
        let line = needs.get(module).map(Vec::as_slice).unwrap_or_default();
        by_mention(line, freed);
        freed.reverse();
        if let Some(mentions) = mentions.get_mut(module) {
            *mentions = Some(freed.to_vec());
        }
    });
    let place = |module: &usize| places.get(*module).copied().flatten();
    match needs.iter().all(|line| line.is_sorted_by_key(place)) {
        true => mentions,
        false => vec![None; needs.len()],
    }
}

/// The order of the kept modules, as far as `shown` and `read` (what was read in modules) say.
pub(super) struct Order {
    /// Each module's place; `None` for those that are not kept, or that need each other.
    pub(super) places: Vec<Option<usize>>,
    /// Modules that must be read, since the order of their symbols matters and is not known. The places are right where
    /// this is empty.
    pub(super) unknown: Vec<usize>,
}

impl Order {
    pub(super) fn of(needs: &Needs, kept: &[bool], shown: &Mentions, read: &Mentions) -> Self {
        let mut unknown = Vec::new();
        let places = sort(needs, kept, |module, freed| {
            let mentions = |of: &Mentions| of.get(module).cloned().flatten();
            if let Some(mentions) = mentions(read) {
                return by_mention(&mentions, freed);
            }
            match mentions(shown).filter(|shown| freed.iter().all(|module| shown.contains(module))) {
                Some(shown) => by_mention(&shown, freed),
                None => {
                    unknown.push(module);
                    // A guess: as in the whole tree.
                    freed.reverse();
                }
            }
        });
        Self { places, unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(needs: &Needs, shown: &Mentions, read: &Mentions) -> (Vec<usize>, Vec<usize>) {
        let order = Order::of(needs, &vec![true; needs.len()], shown, read);
        (order.places.into_iter().map(Option::unwrap).collect(), order.unknown)
    }

    #[test]
    fn unused_modules_are_taken_from_the_last_and_then_what_they_free() {
        // 0 and 3 are unused; 3 needs 1 and (through it) 2.
        let needs = vec![vec![], vec![2], vec![], vec![1, 2]];
        assert_eq!(order(&needs, &vec![None; 4], &vec![None; 4]), (vec![3, 1, 2, 0], vec![]));
    }

    #[test]
    fn the_order_of_symbols_matters_where_two_are_freed() {
        let needs = vec![vec![1, 2], vec![], vec![]];
        let nothing = vec![None; 3];
        assert_eq!(order(&needs, &nothing, &nothing).1, [0]);
        // The symbols name 1, then 2, so 2 is taken first.
        let read = vec![Some(vec![1, 2]), None, None];
        assert_eq!(order(&needs, &nothing, &read), (vec![0, 2, 1], vec![]));
        // The line shows that 1 was taken first, so the symbols name 2 first.
        assert_eq!(shown(&needs)[0], Some(vec![2, 1]));
        assert_eq!(order(&needs, &shown(&needs), &nothing), (vec![0, 1, 2], vec![]));
    }

    #[test]
    fn lines_that_no_sort_makes_show_nothing() {
        // 0 needs 1 and 2, 1 needs 2: 1 always comes before 2.
        assert_eq!(shown(&vec![vec![2, 1], vec![2], vec![]]), vec![None; 3]);
    }

    #[test]
    fn modules_that_need_each_other_have_no_place() {
        let needs = vec![vec![1], vec![0], vec![]];
        let order = Order::of(&needs, &[true; 3], &vec![None; 3], &vec![None; 3]);
        assert_eq!(order.places, [None, None, Some(0)]);
    }
}
