//! Profiles as pprof reads them: a decoder of its `profile.proto` that shares nothing with what writes ours. It is strict:
//! a field that the format does not have is an error, and so is one of another kind.
//!
//! Fields have the names of the format, and stand in the order of their numbers.

/// What a field holds on the wire.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A message's fields that are still to be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Seven bits a byte, the lowest first; the last byte has no high bit.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for place in 0..10 {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if bits << (7 * place) >> (7 * place) != bits {
                return None;
            }
            number |= bits << (7 * place);
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let key = self.number().expect("a field's number");
        let value = self.number().expect("a number or a length");
        let value = match key & 7 {
            0 => Value::Number(value),
            2 => {
                let (bytes, rest) =
                    self.0.split_at_checked(value as usize).expect("as many bytes as it says");
                self.0 = rest;
                Value::Bytes(bytes)
            }
            kind => panic!("field {} is of kind {kind}, which the format does not use", key >> 3),
        };
        Some((key >> 3, value))
    }
}

/// What a field takes from the wire: the last of several, or all of them where it is a list.
trait Field {
    fn take(&mut self, value: Value);
}

impl Field for u64 {
    fn take(&mut self, value: Value) {
        let Value::Number(number) = value else { panic!("bytes for a number") };
        *self = number;
    }
}

impl Field for i64 {
    fn take(&mut self, value: Value) {
        let Value::Number(number) = value else { panic!("bytes for a number") };
        *self = number.cast_signed();
    }
}

impl Field for bool {
    fn take(&mut self, value: Value) {
        let Value::Number(number @ (0 | 1)) = value else { panic!("not a truth value") };
        *self = number == 1;
    }
}

impl Field for String {
    fn take(&mut self, value: Value) {
        let Value::Bytes(bytes) = value else { panic!("a number for a string") };
        *self = String::from_utf8(bytes.to_vec()).expect("UTF-8");
    }
}

/// Numbers come one by one, or packed: one after the other without keys.
macro_rules! list_of_numbers {
    ($($number:ty)*) => {$(
        impl Field for Vec<$number> {
            fn take(&mut self, value: Value) {
                let mut packed = match value {
                    Value::Bytes(bytes) => Fields(bytes),
                    value => {
                        let mut one = <$number>::default();
                        one.take(value);
                        return self.push(one);
                    }
                };
                while !packed.0.is_empty() {
                    self.push(packed.number().expect("a packed number") as $number);
                }
            }
        }
    )*};
}

list_of_numbers!(u64 i64);

/// A list of what is no number.
macro_rules! list_of {
    ($($item:ty)*) => {$(
        impl Field for Vec<$item> {
            fn take(&mut self, value: Value) {
                let mut one = <$item>::default();
                one.take(value);
                self.push(one);
            }
        }
    )*};
}

list_of!(String ValueType Sample Label Mapping Location Line Function);

macro_rules! messages {
    ($($message:ident { $($field:ident: $kind:ty = $number:literal,)* })*) => {$(
        #[derive(Debug, Default)]
        #[allow(dead_code, reason = "the whole format")]
        pub struct $message {
            $(pub $field: $kind,)*
        }

        impl Field for $message {
            fn take(&mut self, value: Value) {
                let Value::Bytes(bytes) = value else { panic!("a number for a {}", stringify!($message)) };
                for (number, value) in Fields(bytes) {
                    match number {
                        $($number => self.$field.take(value),)*
                        number => panic!("a {} has no field {number}", stringify!($message)),
                    }
                }
            }
        }
    )*};
}

messages! {
    Profile {
        sample_type: Vec<ValueType> = 1,
        sample: Vec<Sample> = 2,
        mapping: Vec<Mapping> = 3,
        location: Vec<Location> = 4,
        function: Vec<Function> = 5,
        string_table: Vec<String> = 6,
        drop_frames: i64 = 7,
        keep_frames: i64 = 8,
        time_nanos: i64 = 9,
        duration_nanos: i64 = 10,
        period_type: ValueType = 11,
        period: i64 = 12,
        comment: Vec<i64> = 13,
        default_sample_type: i64 = 14,
    }
    ValueType {
        ty: i64 = 1,
        unit: i64 = 2,
    }
    Sample {
        location_id: Vec<u64> = 1,
        value: Vec<i64> = 2,
        label: Vec<Label> = 3,
    }
    Label {
        key: i64 = 1,
        str: i64 = 2,
        num: i64 = 3,
        num_unit: i64 = 4,
    }
    Mapping {
        id: u64 = 1,
        memory_start: u64 = 2,
        memory_limit: u64 = 3,
        file_offset: u64 = 4,
        filename: i64 = 5,
        build_id: i64 = 6,
        has_functions: bool = 7,
        has_filenames: bool = 8,
        has_line_numbers: bool = 9,
        has_inline_frames: bool = 10,
    }
    Location {
        id: u64 = 1,
        mapping_id: u64 = 2,
        address: u64 = 3,
        line: Vec<Line> = 4,
        is_folded: bool = 5,
    }
    Line {
        function_id: u64 = 1,
        line: i64 = 2,
    }
    Function {
        id: u64 = 1,
        name: i64 = 2,
        system_name: i64 = 3,
        filename: i64 = 4,
        start_line: i64 = 5,
    }
}

impl Profile {
    pub fn decode(bytes: &[u8]) -> Profile {
        let mut profile = Profile::default();
        profile.take(Value::Bytes(bytes));
        profile
    }
}
