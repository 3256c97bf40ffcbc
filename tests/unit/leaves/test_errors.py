from seqpair.errors import DiskFullError, RunLockedError, SeqpairError, TrainingError


def test_a_message_has_what_seen_allowed_and_next():
    error = SeqpairError("the size is unknown", seen="2m", allowed="1m, 4m", fix="choose one")
    assert str(error) == "the size is unknown\n  seen: 2m\n  allowed: 1m, 4m\n  next: choose one"
    assert str(SeqpairError("alone")) == "alone"
    assert "seen: 0" in str(SeqpairError("zero", seen=0))


def test_faults_have_exit_codes_of_their_own():
    assert [kind.exit_code for kind in (SeqpairError, TrainingError, RunLockedError, DiskFullError)] == [2, 3, 4, 5]
