"""Faces in the pictures of ROS 2: a node, and the messages that it reads and writes."""
