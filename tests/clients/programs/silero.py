"""Voice activity by silero-vad, over speech-like sounds: the frames' probabilities and the segments."""

import numpy as np
import torch
from reporting import report
from silero_vad import get_speech_timestamps, load_silero_vad

RATE = 16000


def sounds() -> np.ndarray:
    """Silence, a voiced buzz with formants and syllables, silence, noise."""
    generator = np.random.default_rng(0)
    time = np.arange(3 * RATE) / RATE
    pitch = 120 + 20 * np.sin(2 * np.pi * 3 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(number * phase) / number for number in range(1, 25))
    for formant in (700, 1200, 2600):
        voice += 0.5 * np.sin(2 * np.pi * formant * time) * (1 + np.sin(phase))
    voice *= np.clip(np.sin(2 * np.pi * 4 * time), 0, None)
    silence = 1e-3 * generator.standard_normal(RATE)
    noise = 0.1 * generator.standard_normal(RATE)
    return np.concatenate([silence, 0.1 * voice, silence, noise]).astype(np.float32)


model = load_silero_vad(onnx=True)
audio = torch.from_numpy(sounds())
probabilities = [model(audio[at : at + 512], RATE).item() for at in range(0, len(audio) - 512, 512)]
narrow = audio[::2]
model.reset_states()
probabilities += [model(narrow[at : at + 256], RATE // 2).item() for at in range(0, len(narrow) - 256, 256)]
segments = get_speech_timestamps(audio, model, sampling_rate=RATE, threshold=0.3)
report(probabilities, segments)
