use super::*;

fn load_bytes(bytes: &[u8]) -> Result<Pickle, Problem> {
    load(&mut &bytes[..])
}

fn refusal(bytes: &[u8]) -> String {
    match load_bytes(bytes) {
        Err(Problem::Refused(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

fn malformation(bytes: &[u8]) -> String {
    match load_bytes(bytes) {
        Err(Problem::Malformed(reason)) => reason,
        other => panic!("not malformed: {other:?}"),
    }
}

#[test]
fn every_way_to_write_an_integer_is_read() {
    let cases: [(&[u8], i128); 7] = [
        (b"\x80\x02K\xff.", 255),
        (b"\x80\x02M\x01\x02.", 513),
        (b"\x80\x02J\xfe\xff\xff\xff.", -2),
        (b"\x80\x02\x8a\x00.", 0),
        (b"\x80\x02\x8a\x01\xff.", -1),
        (b"\x80\x02\x8a\x02\xff\x00.", 255),
        (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 0x1950_a86a_20f9_469c_fc6c),
    ];
    for (bytes, expected) in cases {
        assert!(matches!(load_bytes(bytes).unwrap().root(), Value::Int(int) if *int == expected), "{bytes:?}");
    }
}

#[test]
fn every_way_to_write_a_name_is_read() {
    for bytes in [
        &b"\x80\x02X\x02\x00\x00\x00fc."[..],
        b"\x80\x04\x8c\x02fc.",
        b"\x80\x02U\x02fc.",
        b"\x80\x02T\x02\x00\x00\x00fc.",
    ] {
        let pickle = load_bytes(bytes).unwrap();
        assert!(matches!(pickle.root(), Value::String(name) if name == "fc"), "{bytes:?}");
    }
    assert!(malformation(b"\x80\x02U\x01\xff.").contains("not UTF-8"));
}

#[test]
fn a_value_stored_before_it_is_filled_is_seen_filled() {
    // d = {}; memo[0] = d; d["a"] = 1; (d, memo[0])
    let pickle = load_bytes(b"\x80\x02}q\x00X\x01\x00\x00\x00aK\x01sh\x00\x86.").unwrap();
    let Value::Tuple(items) = pickle.root() else { panic!("{:?}", pickle.root()) };
    assert_eq!(items[0], items[1]);
    assert!(matches!(pickle.get(items[1]), Value::Dict(items) if items.len() == 1));
}

#[test]
fn an_ordered_dict_of_python_2_is_read_from_its_pairs() {
    // OrderedDict([["a", 1]])
    let pickle = load_bytes(b"\x80\x02ccollections\nOrderedDict\n]](U\x01aK\x01ea\x85R.").unwrap();
    let Value::Dict(items) = pickle.root() else { panic!("{:?}", pickle.root()) };
    assert_eq!(pickle.string(items[0].0).unwrap(), "a");
    assert_eq!(pickle.int::<u8>(items[0].1).unwrap(), 1);
}

#[test]
fn names_that_are_not_on_the_list_are_refused_by_name() {
    let cases: [(&[u8], &str); 7] = [
        (b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "`os.system`"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "`posix.system`"),
        (b"\x80\x02c__builtin__\neval\n.", "`__builtin__.eval`"),
        (b"\x80\x02ctorch\nload\n.", "`torch.load`"),
        (b"\x80\x02ctorch\nComplexFloatStorage\n.", "`torch.ComplexFloatStorage`"),
        (b"\x80\x02ctorch._utils\n_rebuild_qtensor\n.", "`torch._utils._rebuild_qtensor`"),
        (b"\x80\x02c\x1b[2Jos\nsystem\n.", "`\\u{1b}[2Jos.system`"),
    ];
    for (bytes, name) in cases {
        let reason = refusal(bytes);
        assert!(reason.contains(name), "{reason}");
    }
}

#[test]
fn opcodes_that_no_state_dict_needs_are_refused_by_name() {
    assert!(refusal(b"(S'ls'\nios\nsystem\n.").contains("opcode 0x53"));
    assert!(refusal(b"(ios\nsystem\n.").contains("INST"));
    assert!(refusal(b"\x80\x02\x82\x01.").contains("EXT"));
    assert!(refusal(b"\x80\x06N.").contains("protocol 6"));
}

#[test]
fn a_stack_that_does_not_hold_what_is_taken_is_an_error() {
    for bytes in [b"\x80\x02.".as_slice(), b"t.", b"N(\x85.", b"h\x00.", b"(q\x00.", b"N\x86.", b"R.", b"NNR.", b"NNb."]
    {
        assert!(!malformation(bytes).is_empty());
    }
    assert!(malformation(b"NK\x01a.").contains("appends to None"));
    assert!(malformation(b"}K\x01K\x01K\x01\x87u.").contains("mark"));
    assert!(malformation(b"}(K\x01u.").contains("1 values in a dict"));
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01U\x01bJ\x01\x00\x00\x00u.";
    assert!(load_bytes(bytes).is_ok());
    for len in 0..bytes.len() {
        assert!(load_bytes(&bytes[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn a_claimed_length_allocates_nothing() {
    assert!(refusal(b"X\xff\xff\xff\xff.").contains("4294967295 bytes"));
    assert!(matches!(load_bytes(b"X\x00\xff\x00\x00a"), Err(Problem::Malformed(_))));
    assert!(refusal(b"\x8a\xffaaaa.").contains("integer of 255 bytes"));
}

#[test]
fn depth_and_length_are_bounded_without_recursion() {
    // A tuple in a tuple in a tuple: dropping it must not overflow the stack either.
    let mut deep = b"\x80\x02)".to_vec();
    deep.resize(MAX_OPCODES - 1, 0x85);
    deep.push(b'.');
    assert!(load_bytes(&deep).is_ok());
    deep.insert(3, 0x85);
    deep.insert(3, 0x85);
    assert!(refusal(&deep).contains("opcodes"));
}

#[test]
fn a_long_list_is_not_copied_without_end() {
    // memo[0] = OrderedDict; memo[1] = [1, 1]; memo[2] = ([memo[1], memo[1], ...],); OrderedDict(*memo[2]) ...
    let mut copies = b"\x80\x02ccollections\nOrderedDict\nq\x00](K\x01K\x01eq\x01](".to_vec();
    copies.extend(b"h\x01".repeat(10_000));
    copies.extend(b"e\x85q\x02");
    let mut once = copies.clone();
    once.extend(b"h\x00h\x02R.");
    assert!(load_bytes(&once).is_ok());
    copies.extend(b"h\x00h\x02R".repeat(10_000));
    copies.push(b'.');
    assert!(refusal(&copies).contains("opcodes"));
}
