use super::*;
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// An image that nothing was noted in.
struct Empty(*mut Image);

impl Empty {
    fn new() -> Empty {
        // SAFETY: an image has a size.
        Empty(unsafe { alloc_zeroed(Layout::new::<Image>()) }.cast())
    }
    fn image(&self) -> &Image {
        // SAFETY: zero bytes are an image.
        unsafe { &*self.0 }
    }
}

impl Drop for Empty {
    fn drop(&mut self) {
        // SAFETY: allocated above.
        unsafe { dealloc(self.0.cast(), Layout::new::<Image>()) };
    }
}

#[test]
fn lives_are_told_apart_and_their_places_used_again() {
    let empty = Empty::new();
    let image = empty.image();
    let born = |now| image.allocated(&[1, 2], 100, 112, 1000, now);
    let (first, second) = (born(10), born(20));
    assert!(first.0 != 0 && first.0 != second.0 && (first.1, second.1) == (1, 2));
    image.set_told(second.0);
    let freed = image.freed(first.0, 100, 110).expect("it was noted");
    assert_eq!(freed, Freed { id: 1, counted: 112, rate: 1000, age: 100, is_told: false });
    assert_eq!(image.freed(first.0, 100, 120), None, "it is not live any more");
    let third = born(200);
    assert!(third.0 & 0xf_ffff == first.0 & 0xf_ffff && third.0 != first.0, "the same place");
    assert_eq!(image.freed(first.0, 100, 300), None, "another lives there");
    assert!(image.freed(second.0, 100, 50).is_some_and(|freed| freed.is_told && freed.age == 30));
    let stack = image.stacks().next().expect("a stack");
    assert_eq!(
        (stack.allocated.objects, stack.live.objects, stack.freed.objects, stack.lived),
        (3, 1, 2, 130)
    );
}

#[test]
fn threads_share_the_places_of_lives() {
    let empty = Empty::new();
    let image = empty.image();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut numbers: [u32; 8] = [0; 8];
                for round in 0..40_000 {
                    let number = &mut numbers[round * 5 % 8];
                    assert!(*number == 0 || image.freed(*number, 16, 1).is_some(), "a life was lost");
                    *number = image.allocated(&[1], 16, 16, 16, 0).0;
                }
                for number in numbers {
                    assert!(image.freed(number, 16, 1).is_some());
                }
            });
        }
    });
    let used = image.lives.used();
    assert!(used <= 32 && image.head.live.load(Relaxed) == 0 && image.lost() == 0, "{used} places");
}

#[test]
fn samples_stand_for_what_they_did_when_they_were_drawn() {
    let empty = Empty::new();
    let image = empty.image();
    let (often, rarely) =
        (image.allocated(&[1], 100, 112, 1000, 0), image.allocated(&[1], 100, 112, 50_000, 0));
    let mut live: Vec<_> = image.stacks().map(|stack| (stack.rate, stack.live.objects)).collect();
    live.sort_unstable();
    assert_eq!(live, [(1000, 1), (50_000, 1)]);
    assert_eq!(image.head.live.load(Relaxed), weight(112, 1000) + weight(112, 50_000));
    // Whatever the rate is now.
    assert_eq!(image.freed(often.0, 100, 1).map(|freed| freed.rate), Some(1000));
    assert_eq!(image.head.live.load(Relaxed), weight(112, 50_000));
    assert_eq!(image.freed(rarely.0, 100, 1).map(|freed| freed.rate), Some(50_000));
    assert_eq!((image.head.live.load(Relaxed), image.rate()), (0, 50_000));
}
