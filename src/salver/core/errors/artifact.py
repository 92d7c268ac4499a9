"""What is wrong with the files of a model."""

from salver.core.errors.base import CallerError


class InvalidArtifact(CallerError):
    """A pushed file is damaged, dangerous, or does not do what its format promises."""

    code = "invalid_artifact"


class UnsupportedFormat(InvalidArtifact):
    """No runtime is known for this file."""

    code = "unsupported_format"


class PickleRefused(InvalidArtifact):
    """The file is a pickle, which runs code when it is loaded."""

    code = "pickle_refused"


class CodeRefused(InvalidArtifact):
    """The model is code, or a file that may run some, and nobody said that it may."""

    code = "code_refused"


class RequirementsUnmet(InvalidArtifact):
    """The code needs packages that the workers do not have."""

    code = "requirements_unmet"


class InvalidSteps(InvalidArtifact):
    """The steps around the model do not exist, or do not fit each other or the model."""

    code = "invalid_steps"


class InvalidExample(InvalidArtifact):
    """The example or golden file does not fit the model."""

    code = "invalid_example"


class GoldenMismatch(InvalidArtifact):
    """The model's answer differs from the golden one beyond the tolerance."""

    code = "golden_mismatch"
