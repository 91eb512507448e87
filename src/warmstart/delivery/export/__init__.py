"""A finished model in the formats of other programs, each a folder that needs no warmstart.

served       the network with named outputs, and with its preprocessing inside on request
graph        ONNX            program   torch.export       ir   OpenVINO
hubfolder    timm and transformers
quantised    8-bit ONNX      scripts   predict.py of each format
clean        the answers of that script in a process of its own, compared
readme       the card        place     beside, checked, renamed
"""
